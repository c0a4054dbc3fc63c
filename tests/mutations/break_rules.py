#!/usr/bin/env python3
"""Breaks the rules in the code, one at a time, and demands that the tests notice.

    break_rules.py --work DIR [--only REGEX] [--jobs N]   break, build, test, put back; one line for each rule
    break_rules.py --list                                 the rules
    break_rules.py --table                                the same as the table of docs/testing.md
    break_rules.py --check                                do the list, the code, the tests and the document still fit together?

rules.toml says what to change and which tests must fail then: GoogleTest's, or cases of tests/fault. Everything happens in a copy of the tree under DIR, with a build folder of
its own; the tree that this file lies in is only read. Before anything is broken, every test must pass in the copy as it is. A rule
counts as caught when each of its tests is reported as failed: a change that does not compile, a test that crashes, hangs or never starts
proves nothing. Ends with "N caught, M missed", and with code 1 if any was missed.
"""

import argparse
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DOCUMENT = "docs/testing.md"
TABLE_BEGINS = "<!-- break_rules.py --table -->"
TABLE_ENDS = "<!-- end of table -->"
FAULTS = "fault_run"  # the target whose tests are cases of this script
FAULT_SCRIPT = "tests/fault/fault_test.py"
ENVIRONMENT = dict(os.environ, OMP_NUM_THREADS="1", OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                   OMPI_MCA_btl_vader_single_copy_mechanism="none", HDF5_USE_FILE_LOCKING="BEST_EFFORT")


class Run:
    """A test program, on some ranks, with the tests that must fail; or, where the failure ends the program, with what it must say."""

    def __init__(self, target, tests, ranks=0, says=None):
        self.target = target
        self.tests = tests
        self.ranks = ranks
        self.says = says

    def is_fault_case(self):
        return self.target == FAULTS

    def command(self, build):
        if self.is_fault_case():
            case = self.tests[0].removeprefix("fault.")
            return [sys.executable, str(build.parent / FAULT_SCRIPT), "--build", str(build), "--ranks", str(self.ranks), case]
        mpirun = ["mpirun", "-np", str(self.ranks), "--bind-to", "none", "--oversubscribe"] if self.ranks else []
        return [*mpirun, str(build / "tests" / self.target), "--gtest_color=no", "--gtest_filter=" + ":".join(self.tests)]


class Rule:
    def __init__(self, section, broken, file, code, becomes, seen_by, tried=True):
        self.section = section
        self.broken = broken
        self.file = file
        self.code = code
        self.becomes = becomes
        self.runs = [Run(**run) for run in seen_by]
        self.tried = tried

    def __str__(self):
        return f"{self.section}: {self.broken} [{', '.join(run.target for run in self.runs)}]"


def read_rules():
    sections = tomllib.loads((HERE / "rules.toml").read_text())
    rules = [Rule(section, **entry) for section, entries in sections.items() for entry in entries]
    names = [rule.broken for rule in rules]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        sys.exit(f"rules.toml: more than one rule is called {', '.join(twice)}")
    return rules


def applied(rule, root):
    """The text of the rule's file with the rule broken. Raises ValueError where its code is not there exactly once."""
    text = (root / rule.file).read_text()
    count = text.count(rule.code)
    if count != 1 or rule.code == rule.becomes:
        raise ValueError(f"'{rule.broken}': its code is {count} times in {rule.file}; it must be there once")
    return text.replace(rule.code, rule.becomes)


class Copy:
    """A copy of the tree, and its build."""

    def __init__(self, work, jobs):
        self.tree = work / "tree"
        self.build = self.tree / "build"
        self.jobs = jobs

    def refresh(self):
        """As the tree is now. Files that are alike keep their time stamps, so that little is built again."""
        listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"], check=True,
                                capture_output=True, text=True).stdout
        files = {Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file()}
        for file in files:
            source, copy = ROOT / file, self.tree / file
            if copy.is_file() and copy.read_bytes() == source.read_bytes():
                continue
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
            shutil.copymode(source, copy)
        for copy in self.tree.rglob("*"):
            inside = copy.relative_to(self.tree)
            if copy.is_file() and inside.parts[0] not in ("build", ".deps") and inside not in files:
                copy.unlink()
        libraries = self.tree / ".deps"
        if (ROOT / ".deps").exists() and not libraries.exists():
            libraries.unlink(missing_ok=True)  # a link to a tree that is gone
            libraries.symlink_to(ROOT / ".deps")
        if not (self.build / "build.ninja").exists():
            subprocess.run(["cmake", "--preset", "cpu-release", "-DDPLDM_UNITY=OFF"], cwd=self.tree, check=True, stdout=subprocess.DEVNULL)

    def make(self, targets):
        """What the compiler said if it failed, else nothing."""
        done = subprocess.run(["cmake", "--build", self.build, "--parallel", str(self.jobs), "--target", *targets], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return "" if done.returncode == 0 else done.stdout


class Outcome:
    def __init__(self, run, build, timeout):
        self.ended = True
        try:
            done = subprocess.run(run.command(build), env=ENVIRONMENT, text=True, errors="replace", stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout)
            self.code, self.text = done.returncode, done.stdout
        except subprocess.TimeoutExpired:
            self.ended, self.code, self.text = False, None, ""

    def reported(self, word, test):
        names = re.findall(rf"^\[ *{word} *\] ([^\s,]+)", self.text, re.MULTILINE)
        return any(fnmatch.fnmatchcase(name, test) for name in names)


def why_not_passed(run, build, timeout):
    for _ in range(2):  # a busy machine may keep a rank waiting beyond its deadline
        outcome = Outcome(run, build, timeout)
        absent = [test for test in run.tests if not run.is_fault_case() and not outcome.reported("OK", test)]
        if outcome.code == 0 and not absent:
            return ""
    return f"{run.target} does not pass with the rule kept ({absent or 'code ' + str(outcome.code)}):\n{outcome.text[-4000:]}"


def why_not_caught(run, outcome):
    if not outcome.ended:
        return "the test did not end"
    if outcome.code == 0:
        return f"{run.target} passes"
    if run.says:
        return "" if re.search(run.says, outcome.text) else f"it did not say '{run.says}':\n{outcome.text[-2000:]}"
    passed = [test for test in run.tests if not outcome.reported("FAILED", test)]
    return f"not reported as failed: {', '.join(passed)}\n{outcome.text[-1500:]}" if passed else ""


def break_one(rule, copy, timeout):
    """Why the rule was not caught; nothing if it was. The copy is as it was afterwards."""
    path = copy.tree / rule.file
    kept = path.read_text()
    path.write_text(applied(rule, copy.tree))
    try:
        complaint = copy.make([run.target for run in rule.runs])
        if complaint:
            return "it does not compile:\n" + complaint[-3000:]
        for run in rule.runs:
            reason = why_not_caught(run, Outcome(run, copy.build, timeout))
            if reason:
                return reason
        return ""
    finally:
        path.write_text(kept)


def break_all(rules, copy, timeout):
    copy.refresh()
    complaint = copy.make(sorted({run.target for rule in rules for run in rule.runs}))
    if complaint:
        sys.exit(complaint[-4000:] + "\nthe tree does not build as it is")
    runs = {tuple(run.command(copy.build)): run for rule in rules for run in rule.runs}
    failures = {command: why_not_passed(run, copy.build, timeout) for command, run in runs.items()}
    print(f"{sum(not reason for reason in failures.values())} of {len(runs)} test runs pass with every rule kept", flush=True)
    caught = 0
    for number, rule in enumerate(rules, 1):
        began = time.monotonic()
        reason = "".join(failures[tuple(run.command(copy.build))] for run in rule.runs) or break_one(rule, copy, timeout)
        caught += not reason
        print(f"{'MISSED' if reason else 'caught'} {number:3}/{len(rules)} {time.monotonic() - began:4.0f} s  {rule}"
              + ("\n" + reason if reason else ""), flush=True)
    print(f"{caught} caught, {len(rules) - caught} missed")
    return caught == len(rules)


def table_of(rules):
    """One line for the rules of a section that the same tests see."""
    lines = {}
    for rule in rules:
        seen_by = []
        for run in rule.runs:
            tests = "; ".join(f"`{test}`" for test in run.tests)
            seen_by.append(tests + (f" on {run.ranks} ranks" if run.ranks > 1 else ""))
        lines.setdefault((rule.section, "; ".join(seen_by)), []).append(rule.broken + ("" if rule.tried else " (not tried yet)"))
    rows = [f"| {section} | {'; '.join(broken)} | {seen_by} |" for (section, seen_by), broken in lines.items()]
    return "\n".join(["| about | broken on purpose | seen by |", "| --- | --- | --- |", *rows])


def complaints_about(rules):
    """What has changed around the list without it."""
    sources = {path: path.read_text() for path in (ROOT / "tests").rglob("*") if path.suffix in (".cpp", ".txt")}
    everything = "\n".join(sources.values())
    cases = set(re.findall(r"^def case_(\w+)", (ROOT / FAULT_SCRIPT).read_text(), re.MULTILINE))
    for rule in rules:
        try:
            applied(rule, ROOT)
        except (OSError, ValueError) as error:
            yield str(error)
        for run in rule.runs:
            if run.is_fault_case():
                if len(run.tests) != 1 or run.tests[0] not in {"fault." + case for case in cases} or not run.ranks or not run.says:
                    yield f"'{rule.broken}': {run.tests} is not one case of {FAULT_SCRIPT}, with its ranks and what it must say"
                continue
            if not re.search(rf"dpldm_test\({run.target}\b", everything):
                yield f"'{rule.broken}': there is no test program {run.target}"
            for test in run.tests:
                suite, name = re.fullmatch(r"(?:\w*/)?(\w+)\.(\w+)(?:/\S+)?", test).groups()
                found = re.search(rf"TEST(_F|_P)?\(\s*{suite},\s*{name}\)", everything)
                if not found:
                    yield f"'{rule.broken}': there is no test {test}"
                elif (found.group(1) == "_P") != ("/" in test):  # gtest's name of a test with parameters is A/B.C/D
                    yield f"'{rule.broken}': {test} is not what gtest calls the test"
    document = (ROOT / DOCUMENT).read_text()
    if f"{TABLE_BEGINS}\n{table_of(rules)}\n{TABLE_ENDS}" not in document:
        yield f"{DOCUMENT} has another table than rules.toml; put the output of --table between its two marks"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="where the copy of the tree and its build go (some GB); kept for the next time")
    parser.add_argument("--only", default="", help="the rules whose line in --list matches this regular expression")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="compilers at a time")
    parser.add_argument("--timeout", type=float, default=300, help="seconds that one test program may take")
    for action in ("list", "table", "check"):
        parser.add_argument("--" + action, action="store_true")
    options = parser.parse_args()
    rules = read_rules()
    if options.check:
        complaints = list(complaints_about(rules))
        print("\n".join(complaints) or f"{len(rules)} rules fit")
        return not complaints
    rules = [rule for rule in rules if re.search(options.only, str(rule))]
    if options.list or options.table:
        print(table_of(rules) if options.table else "\n".join(str(rule) for rule in rules))
        return True
    if not options.work:
        parser.error("give --work")
    return break_all(rules, Copy(options.work.resolve(), options.jobs), options.timeout)


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
