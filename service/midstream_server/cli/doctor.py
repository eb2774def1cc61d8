"""`midstream doctor`: says what is wrong and what to do about it."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from midstream_server.cli import checks, terminal
from midstream_server.cli.checks import Finding, Level
from midstream_server.cli.serve import effective
from midstream_server.errors import InvalidSettings
from midstream_server.logs import configure_logs
from midstream_server.settings import Settings

_MARKS = {
    Level.OK: ("✓", terminal.GREEN),
    Level.WARNING: ("!", terminal.YELLOW),
    Level.PROBLEM: ("✗", terminal.RED),
}


def doctor(config: Path | None, flags: Mapping[str, Any], *, json_output: bool) -> int:
    """Prints the findings; 1 if one is a problem."""
    configure_logs("error", "console")  # on standard error: what the parts that are tried say is in the findings
    findings = asyncio.run(examine(config, flags, os.environ))
    healthy = all(each.level != Level.PROBLEM for each in findings)
    if json_output:
        terminal.print_json({"healthy": healthy, "findings": [_as_json(each) for each in findings]})
    else:
        _show(findings)
    return terminal.OK if healthy else terminal.FAILED


async def examine(config: Path | None, flags: Mapping[str, Any], environment: Mapping[str, str]) -> list[Finding]:
    """Looks at everything that can be looked at."""
    findings = [checks.check_python()]
    try:
        configuration = effective(config, flags, environment)
    except InvalidSettings as error:
        advice = "mend it; until then the rest cannot be looked at"
        findings.append(Finding(subject="settings", level=Level.PROBLEM, message=error.message, advice=advice))
        return findings
    settings = configuration.settings
    findings.append(Finding(subject="settings", level=Level.OK, message=_origin(configuration.origins)))
    findings.append(await asyncio.to_thread(checks.check_listen, settings))
    if settings.tls.cert_file:
        findings.append(checks.check_tls(settings))
    findings.append(await checks.check_store(settings))
    findings.extend(await _check_upstreams(settings, environment))
    return findings


async def _check_upstreams(settings: Settings, environment: Mapping[str, str]) -> Sequence[Finding]:
    remote = {name: each for name, each in settings.upstreams.items() if each.dialect != "local"}
    findings = list(await asyncio.gather(*(checks.check_upstream(*each, environment) for each in remote.items())))
    if len(remote) < len(settings.upstreams):
        findings.append(checks.check_local())
    if not settings.upstreams:
        findings.append(
            Finding(
                subject="upstreams",
                level=Level.PROBLEM,
                message="there is none, so no run can start",
                advice="configure one, set a variable such as OPENAI_API_KEY, or enable the local model",
            )
        )
    return findings


def _origin(origins: Mapping[str, str]) -> str:
    sources = sorted(set(origins.values()))
    return f"from {', '.join(sources)}" if sources else "nothing is configured; the defaults are used"


def _show(findings: Sequence[Finding]) -> None:
    answers = terminal.answers()
    width = max(len(each.subject) for each in findings)
    for each in findings:
        mark, style = _MARKS[each.level]
        answers.write(f"{mark} ", style)
        answers.write(f"{each.subject:{width}}  {each.message}\n")
        if each.advice:
            answers.line(f"  {'':{width}}  → {each.advice}", terminal.DIM)
    answers.line()
    answers.line(_verdict(findings), terminal.BOLD)


def _verdict(findings: Sequence[Finding]) -> str:
    counts = [(sum(each.level == level for each in findings), level) for level in (Level.PROBLEM, Level.WARNING)]
    told = [f"{count} {level}{'s' if count > 1 else ''}" for count, level in counts if count]
    return ", ".join(told) or "all is well"


def _as_json(finding: Finding) -> dict[str, str]:
    shown = {"subject": finding.subject, "level": str(finding.level), "message": finding.message}
    return shown | ({"advice": finding.advice} if finding.advice else {})
