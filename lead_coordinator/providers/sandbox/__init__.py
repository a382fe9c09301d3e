"""The sandbox provider: a local server that speaks the wire protocols of Gemini and OpenAI.

People try the platform on it and rehearse failures; tests and published figures come from it. It answers
structured requests with its own sentences made from the brief in the prompt, plainly marked as sandbox text,
the same for the same seed and prompt. It enforces a strict sliding window of 60 seconds per provider, takes
as long as a real service does, keeps a call log, and injects faults on request.

    python -m lead_coordinator.providers.sandbox --port 8765 --latency fast --seed 1 --call-log calls.jsonl

It listens on 127.0.0.1 only and imports neither an SDK nor Dagster nor pandas: it has to stay small beside
the platform. The same port serves both: `GEMINI_BASE_URL=http://127.0.0.1:8765`,
`OPENAI_BASE_URL=http://127.0.0.1:8765/v1`.

While it runs: `GET /sandbox/stats`, `GET /sandbox/calls`, `PUT /sandbox/faults` (such as
`{"all": {"rate_limited": 0.2}, "openai": {"down": true}}`; the kinds are in `faults.FAULTS`),
`DELETE /sandbox/faults`, `POST /sandbox/reset`; from Python, `admin.SandboxAdmin`. A key that begins with
`invalid` is refused as a wrong key is; any other is taken.
"""
