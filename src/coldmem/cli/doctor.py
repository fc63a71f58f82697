"""``coldmem doctor``."""

from __future__ import annotations

import click

from coldmem.cli import output
from coldmem.cli.options import json_option
from coldmem.lab import doctor
from coldmem.lab.result import Result

DOES_NOT_WORK = 3


@click.command("doctor")
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """What this machine permits, what will be used, and how to get better.

    Passes an array through a small Memory in each permitted delivery. Ends with 0 when a Memory works
    here, and with 3 when not.
    """
    with output.progress() as say:
        say("looking at the machine, and trying a small Memory in each delivery")
        report = doctor.examine()
    if as_json:
        rows: list[dict[str, object]] = [
            {"topic": f.topic, "name": f.name, "found": f.found, "advice": f.advice or None}
            for f in report.facts
        ]
        output.print_json(Result("doctor", {"works": report.works}, rows))
    else:
        _show(report)
    if not report.works:
        ctx.exit(DOES_NOT_WORK)


TOPICS = {
    "kernel": "page faults\nand kernel", "delivery": "delivery: how\nfaults reach us",
    "memory": "memory\nand disk", "codecs": "codecs", "defaults": "if nothing\nelse is said",
}


def _show(report: doctor.Report) -> None:
    screen = output.console()
    by_name = {fact.name: fact for fact in report.facts}
    if report.works:
        delivery = by_name["default_delivery"].found
        said = f"a Memory works here, with delivery {delivery!r}"
        if delivery == "sigbus":
            said += ". It needs no rights; what 'handler' takes, with which every system call works " \
                    "on arrays, is said below"
        screen.print(f"[green]{said}[/]", soft_wrap=True)
    else:
        screen.print("[red]no Memory works here[/]: see the lines at the end")
    screen.print()
    made = output.table("What was found", ["", ""], left=2)
    made.show_header = False
    advice: list[str] = []
    for topic in TOPICS:
        lines = []
        for fact in (f for f in report.facts if f.topic == topic):
            mark = ""
            if fact.advice:
                if fact.advice not in advice:
                    advice.append(fact.advice)
                mark = f" [yellow]({advice.index(fact.advice) + 1})[/]"
            lines.append(_plain(fact.text) + mark)
        made.add_row(TOPICS[topic], "\n".join(lines))
        made.add_row()
    screen.print(made)
    for number, line in enumerate(advice, 1):
        screen.print(f"[yellow]({number})[/] {_plain(line)}", soft_wrap=True)
    if not advice:
        screen.print("nothing to advise")


def _plain(text: str) -> str:
    return text.replace("[", "\\[")
