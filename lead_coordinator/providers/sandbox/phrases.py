# ruff: noqa: E501 - one sentence a line
"""The sentences of the sandbox. `{a|b|c}` is a choice; `<subject>`, `<point>`, `<audience>`, `<note>`, `<heading>` are filled in
from the brief. General advice that holds for nearly any subject, so that nothing false is claimed about it."""

from __future__ import annotations

import random
import re

# Every article opens with it, so that nobody takes sandbox text for the real thing.
MARK = (
    "**Sandbox text.** The sandbox provider wrote this from the brief alone, to try the platform; no language model"
    " was asked, and nothing in it has been checked."
)

HEADINGS_FIRST = (
    "What <subject> comes down to",
    "Where most people start with <subject>",
    "Before anything else: the question behind <subject>",
)
HEADINGS = (
    "What to have ready before you begin",
    "How to tell a good choice from a poor one",
    "The steps, in the order that works",
    "What it takes in time, money and attention",
    "Three ways to do it, compared",
    "Mistakes that cost the most",
    "How to check that it works",
    "When the usual advice does not apply",
    "What to ask before you commit",
    "Small habits that keep it going",
    "What changes after the first month",
    "How to explain it to somebody else",
)
HEADINGS_LAST = ("What to do next", "A plan for the coming week", "Where to go from here")

POINTS = (
    "write down what {you want to reach|has to be different afterwards} in one sentence",
    "set a limit for {time|money|effort} before looking at options",
    "compare at least {two|three} ways of doing it on the same {questions|terms}",
    "try it on a small scale {first|before committing}",
    "decide who {does what|is responsible} and by when",
    "name the one thing that would {change the decision|make you stop}",
    "keep a short record of {what was tried|every change} and what came of it",
    "check the result after {a week|two weeks|a month} against the starting point",
    "leave room for {the unexpected|a second attempt}",
    "ask somebody who has {done it before|made the mistake already}",
    "separate what is {urgent|fixed} from what can {wait|change}",
    "look at what it costs to {undo|keep up}, not only to start",
)

SENTENCES = (
    "{Start|Begin} with the {result you want|end in mind}: one sentence that says what will be different {afterwards|when it is done}.",
    "{Most|Many} {problems|disappointments} with <subject> begin {before the first step|long before they show}, with a question nobody asked.",
    "<audience> {usually|often} know more about this than they {think|give themselves credit for}.",
    "{Take|Give it} ten minutes and {write down|list} what you {already have|can already do}, because that is what you will build on.",
    "It {helps|pays} to separate what is {fixed|given} from what is {open|still yours to choose}.",
    "{A good rule|A useful test} is to ask what would have to be true for the {other|opposite} choice to be better.",
    "{Nothing here|No part of this} has to be perfect; it has to be {good enough to learn from|clear enough to act on}.",
    "If two options look {alike|equally good}, {choose|take} the one that is easier to {undo|leave again}.",
    "{Small|Modest} steps have one advantage over {big|grand} ones: they {show their effect|tell you something} sooner.",
    "{Write|Note} the date beside every decision, so that you can {see later|tell} what you knew at the time.",
    "{The first version|A first attempt} is there to be {improved|replaced}, and saying so makes it easier to {begin|finish}.",
    "Whoever {skips|hurries} this part {pays for it|meets it again} later, {usually at a worse moment|when it costs more}.",
    "{Ask|Find out} what it takes to keep <subject> going, not only what it takes to {start|set it up}.",
    "{Two|A few} plain questions do more here than a {long|clever} {checklist|method}.",
    "{When in doubt|If you are unsure}, {make the smaller change|change one thing at a time} and look again {after a week|a few days later}.",
    "{Other people's|Borrowed} advice fits {only as far as|where} their circumstances {match|resemble} yours.",
    "{What works|What is right} for one person can be {wrong|a burden} for the next, so {treat examples as examples|test before you copy}.",
    "{A limit|A ceiling} set in advance, in time or money, {keeps|prevents} the matter from {growing|spreading} unnoticed.",
    "{That is|This is} the {moment|place} to <point>.",
    "{In practice|Day to day} it means to <point>, {even when it feels slow|and to do it before anything else}.",
    "{One step|The step} that is {easily|often} left out: <point>.",
    "{Do not|Never} wait for the perfect moment to <point>; {an ordinary one will do|the next quiet hour is enough}.",
    "{Those who|People who} <point> {early|from the start} tend to need fewer {corrections|repairs} later.",
    "{It sounds obvious|This sounds simple}, and it is {rarely done|skipped all the time}: <point>.",
    "To <point> takes {less than an hour|one short session} and {saves|spares} you {a longer one|several} later on.",
    "The brief asks for this in particular: “<note>”.",
    "{Keep in mind|Remember} what was asked for: “<note>”.",
    "{Look at|Watch} the {whole|full} cost: what you pay {once|at the start}, what you pay {every month|again and again}, and what you give up.",
    "{Compare|Weigh} like with like, {over the same period|on the same terms}, or the comparison {says nothing|misleads}.",
    "{Quality|Usefulness} shows in {ordinary|everyday} use, {not on the first day|after the novelty has gone}.",
    "{Set|Put} a date in the calendar on which you will {decide|judge} whether it {worked|was worth it}.",
    "{Measure|Judge} the result by the {sentence you wrote|aim you set} at the beginning, {not by the effort it took|and by nothing else}.",
    "{Where|If} rules or prices depend on the place you live in, {check|look up} what {holds|applies} there before you {act|sign anything}.",
    "{A second pair of eyes|Someone who was not involved} {finds|sees} in minutes what you have {looked past|stopped noticing}.",
    "{Make|Keep} the {next|very next} step so small that there is no reason to {put it off|delay it}.",
    "{It is fine|There is no shame in it} to {stop|turn back} when the {reasons|facts} have changed.",
    "{The order|The sequence} matters more than the speed: {what comes first decides|an early step shapes} what is possible later.",
    "{Plan for|Expect} one thing to go {wrong|differently}, and decide {now|today} what you will do then.",
    "{Short|Brief} notes made at the time are worth more than a {long|careful} account {from memory|weeks later}.",
    "With <subject>, {patience|steadiness} {beats|counts for more than} {enthusiasm|a strong start}.",
    "{Readers|People} who {ask|wonder} about <subject> {mostly|usually} want to know {one thing|two things}: what to do first, and how to tell that it was right.",
    "{There is|You will find} no single {answer|best way}, {but|though} there are clear signs of a bad one.",
    "{One sign|A warning sign} is a plan that {depends on|stands or falls with} everything {going well|happening on time}.",
    "{Another|A second} sign is a {promise|claim} without a {condition|limit} attached to it.",
    "{Tell|Show} somebody what you {intend|are about} to do, and {listen|pay attention} to the first question they ask.",
    "{If that question|If what they ask} {surprises|stops} you, the plan {needs|wants} another hour.",
    "{Keep|Leave} what {works|already helps}, even if it is not {new|elegant}.",
    "{Remove|Take away} one thing before you add another; {the whole|what remains} becomes easier to {see|judge}.",
    "{The cheapest|The quickest} way is {not always|seldom} the {simplest|least work} once you count the time it {takes|ties up}.",
    "{Doubt|Hesitation} is {information|a hint}: it {often|usually} points at the part that was not {thought through|made clear}.",
    "{For <audience>|For most <audience>} the {hard|difficult} part is not knowing what to do but {choosing|deciding} what to leave out.",
    "{A week|Seven days} is {long enough|enough} to see a {pattern|tendency} and short enough to {change course|start over}.",
    "{Good|Honest} {records|notes} make the second attempt {half as hard|much easier than the first}.",
    "{Think|Look} one step further than <subject> itself: what will you {need|want} once it {works|is in place}?",
    "{Do|Finish} the {unpleasant|boring} part first, while {interest|energy} is {high|fresh}.",
    "{Everything else|The rest} can {wait|follow} until this {stands|is settled}.",
    "{Once|As soon as} that is {clear|decided}, the {remaining|other} choices become {smaller|easier}.",
    "{That leaves|What is left is} the question of {when|how often}, and {the honest answer is|here it pays to say} {less often than planned|only as often as you can keep up}.",
    "{Mark|Write down} what surprised you; {surprises|those} show where your picture of <subject> was {wrong|incomplete}.",
    "{Review|Go through} the list once more {at the end|before you call it done} and {strike out|cross off} what no longer {matters|applies}.",
)

LIST_LEADS = (
    "{In short|Put briefly}, it comes down to {this|these points}:",
    "{Go through these|Take these} in order:",
    "{A short list|A few things} to {work through|settle} first:",
    "{Before you go on|Before the next step}, {check|make sure of} the following:",
)

TABLE_LEADS = (
    "{Side by side|Compared on the same terms}, the {usual|common} ways look like this:",
    "{A rough comparison|The comparison in short}:",
)
TABLE_ROWS = (
    (
        "Do it yourself",
        "{low|little}",
        "{some weekends|several evenings}",
        "{you learn most|you keep control}",
    ),
    (
        "With some help",
        "{moderate|in between}",
        "{a few hours|one or two days}",
        "{mistakes are caught early|someone answers questions}",
    ),
    (
        "Hand it over",
        "{highest|high}",
        "{very little|almost none}",
        "{it is done soon|others carry the work}",
    ),
)

ISSUES = (
    "Sandbox text: have the claims checked by a person before anything like this is published.",
    "The examples are general; a person who knows the subject should add {one|two} from practice.",
    "Where rules or prices depend on the place, the text says so without naming them.",
)

_CHOICE = re.compile(r"\{([^{}]*)\}")


def spin(template: str, source: random.Random) -> str:
    """The template with one alternative of every choice; slots in angle brackets stay."""
    return _CHOICE.sub(lambda match: source.choice(match.group(1).split("|")), template)
