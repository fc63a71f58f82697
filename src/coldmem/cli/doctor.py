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


def _show(report: doctor.Report) -> None:
    screen = output.console()
    made = output.table("What this machine permits", ["", "found"], left=2)
    advice: list[str] = []
    last = ""
    for fact in report.facts:
        mark = ""
        if fact.advice:
            if fact.advice not in advice:
                advice.append(fact.advice)
            mark = f" [yellow]({advice.index(fact.advice) + 1})[/]"
        made.add_row(fact.topic if fact.topic != last else "", _plain(fact.text) + mark)
        last = fact.topic
    screen.print(made)
    screen.print()
    for number, line in enumerate(advice, 1):
        screen.print(f"[yellow]({number})[/] {_plain(line)}", soft_wrap=True)
    screen.print("[green]a Memory works here[/]" if report.works else "[red]no Memory works here[/]")


def _plain(text: str) -> str:
    return text.replace("[", "\\[")
