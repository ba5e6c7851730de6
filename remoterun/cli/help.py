"""What `--help` shows of a command: no types of the parser's, no braces."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand


class Command(TyperCommand):
    """A command whose help names arguments as the README does."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        pieces = [re.sub(r"[{}]", "", piece) for piece in super().collect_usage_pieces(ctx)]
        return [piece.removesuffix("...") if "…" in piece else piece for piece in pieces]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        found: dict[str, list[tuple[str, str]]] = {"argument": [], "option": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                name, text = record
                text = re.sub(r"; x>=\d+\]$", "]", re.sub(r"  \[(required|x>=\d+)\]$", "", text))
                found[parameter.param_type_name].append((re.sub(r" <\S+>$", "", name), text))
        for kind, records in found.items():
            if records:
                with formatter.section(f"{kind.capitalize()}s"):
                    formatter.write_dl(records)


class RunThenCommand(Command):
    """A command that takes a run, options, and the words of a command of the user's: `rerun 12 -t box python x.py -v`.

    Options stand before and after the run; from the first word after it on, or after `--`, all is the user's.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        takes_value = {name for each in self.params if not getattr(each, "is_flag", True) for name in each.opts}
        options: list[str] = []
        rest = list(args)
        run: list[str] = []
        while rest and rest[0] != "--":
            word = rest[0]
            if word.startswith("-") and word != "-":
                attached = "=" in word if word.startswith("--") else word[:2] in takes_value and len(word) > 2
                count = 2 if not attached and (word in takes_value or word[:2] in takes_value) else 1
                if count > len(rest):
                    return list(super().parse_args(ctx, rest))  # says that its value is missing
                options += rest[:count]
                del rest[:count]
            elif not run:
                run.append(rest.pop(0))
            else:
                break
        if rest[:1] == ["--"]:
            del rest[0]
        parsed: list[str] = super().parse_args(ctx, [*options, "--", *run, *rest] if run else [*options, *rest])
        return parsed
