"""Language model providers: their official SDKs, what a call costs, and the gateway that a pipeline calls.

- `base`: the types that pipelines see (`CallRequest`, `CallResult`, `ModelCaller`) and the `Provider`
  protocol
- `gateway`: prices a call, asks SQL for a slot and the money, sends, settles
- `gemini`, `openai`: one provider each; `factory` builds them from the settings
- `prices`: list prices, worst case before a call and real cost after it
- `sandbox`: a local server that speaks both wire protocols, used when no key is given
"""
