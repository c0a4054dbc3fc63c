#!/usr/bin/env python3
"""What happens when something breaks: one thing at a time, on a run of a few steps, with a time limit on everything.

    fault_test.py --build BUILD --ranks N CASE      one case; ends with 0, 1 (failed) or 77 (skipped, with the reason)
    fault_test.py --build BUILD --table             every case on 2 and 3 ranks, as the table of docs/failures.md

Each case breaks a run, looks at the exit code, the time it took and what is left on disk, goes on with --resume, and compares what the
ledger says was spent before and after: it may never become less.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STEPS = 8
CHECKPOINT_EVERY = 2
DEADLINE = 2.0  # seconds that a rank waits for the others
# Seconds until a run that is not broken has got where a case wants it, and until one that is has ended.
LIMIT = 40.0
# What an end may be late by, on a machine that does other work at the same time.
LATE = float(os.environ.get("DPLDM_FAULT_LATE", "10"))


class Failed(Exception):
    pass


class Skipped(Exception):
    pass


def require(condition, message):
    if not condition:
        raise Failed(message)


class Ended:
    """How a run ended."""

    def __init__(self, code, text, since_fault, whole):
        self.code = code
        self.text = text
        self.since_fault = since_fault  # seconds from the fault, or None where there was none
        self.whole = whole

    def seconds(self):
        return f"{self.since_fault:.1f}" if self.since_fault is not None else f"{self.whole:.1f} (whole run)"


class Case:
    def __init__(self, build, ranks, folder):
        self.build = build
        self.ranks = ranks
        self.folder = folder
        self.run_dir = folder / "run"
        self.latents = folder / "latents.h5"
        self.first = None  # how the broken run ended
        self.prefix = []  # before mpirun
        self.more_environment = {}
        fault_run = self.build / "tests/fault_run"
        subprocess.run([fault_run, "toy", folder], check=True, env=self.environment(), timeout=60)

    def environment(self):
        return dict(os.environ, OMP_NUM_THREADS="1", OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                    OMPI_MCA_rmaps_base_oversubscribe="1", OMPI_MCA_btl_vader_single_copy_mechanism="none")

    def arguments(self, resume, more=()):
        settings = {
            "data.latents": self.latents, "model.base": self.folder / "tiny", "training.steps": STEPS,
            "training.expected_batch_size": 8, "privacy.epsilon": 1000, "privacy.delta": 1e-3, "privacy.noise_multiplier": 1,
            "privacy.accountant": "rdp", "runtime.threads": 1, "runtime.micro_batch_size": 4, "runtime.start_deadline_seconds": 30,
            "runtime.deadline_seconds": DEADLINE, "checkpoint.every_steps": CHECKPOINT_EVERY, "checkpoint.keep_last": 3,
            "checkpoint.in_background": "false",  # so that it is known what is on the disk at a step
        }
        result = ["--run-dir", str(self.run_dir)]
        for key, value in settings.items():
            result += ["--set", f"{key}={value}"]
        return result + list(more) + (["--resume"] if resume else [])

    def command(self, fault=(), resume=False, more=()):
        return [*self.prefix, str(ROOT / "launch/train_mpirun.sh"), "--ranks", str(self.ranks), "--program",
                str(self.build / "tests/fault_run"), "finetune", *fault, *self.arguments(resume, more)]

    def start(self, *args, **kwargs):
        # A session of its own: what is left of it can be found, and ended, whatever happens.
        return subprocess.Popen(self.command(*args, **kwargs), env={**self.environment(), **self.more_environment}, stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL, stderr=open(self.folder / "err", "wb"), start_new_session=True)

    def finish(self, process, began, fault_at=None, limit=LIMIT):
        try:
            code = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            self.end_ranks()
            raise Failed(f"the run did not end within {limit} s; it said:\n{self.said()}") from None
        ended = time.time()
        announced = re.search(r"fault at ([0-9.]+)", self.said())
        if announced:
            fault_at = float(announced.group(1))
        self.no_rank_is_left()
        return Ended(code, self.said(), ended - fault_at if fault_at else None, ended - began)

    def finish_beside(self, process, began, limit=LIMIT):
        """As finish, while another run goes on in the same directory."""
        code = process.wait(timeout=limit)
        return Ended(code, self.said(), None, time.time() - began)

    def run(self, *args, limit=LIMIT, **kwargs):
        began = time.time()
        return self.finish(self.start(*args, **kwargs), began, limit=limit)

    def said(self):
        return (self.folder / "err").read_text(errors="replace")

    def rank_processes(self):
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[0].endswith(b"/fault_run") and any(str(self.folder).encode() in word for word in words):
                found.append(int(entry.name))
        return found

    def end_ranks(self):
        for pid in self.rank_processes():
            os.kill(pid, signal.SIGKILL)

    def no_rank_is_left(self):
        until = time.time() + 10
        while self.rank_processes():
            if time.time() > until:
                self.end_ranks()
                raise Failed("a rank outlived its job")
            time.sleep(0.05)

    def wait_for_steps(self, count):
        """Until the run has done that many steps."""
        until = time.time() + LIMIT
        while time.time() < until:
            metrics = self.run_dir / "metrics.jsonl"
            if metrics.exists() and len(metrics.read_text().splitlines()) >= count:
                return
            time.sleep(0.02)
        raise Failed(f"the run did not come to step {count}; it said:\n{self.said()}")

    def wait_until_said(self, text):
        until = time.time() + LIMIT
        while text not in self.said():
            if time.time() > until:
                raise Failed(f"does not say '{text}', but:\n{self.said()}")
            time.sleep(0.02)

    def ledger(self):
        """Epsilon and number of steps that were charged."""
        out = subprocess.run([self.build / "bin/dpldm", "privacy", "ledger", self.run_dir, "--json"], capture_output=True, text=True,
                             env=self.environment(), timeout=60)
        require(out.returncode == 0, f"the ledger does not verify: {out.stderr}")
        answer = json.loads(out.stdout)
        return answer["epsilon"], answer["steps"]

    def checkpoints(self):
        folder = self.run_dir / "checkpoints"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    def checkpointed_steps(self):
        """Of the checkpoints that have their final name, in order. None of them may be partial."""
        whole = [name for name in self.checkpoints() if re.fullmatch(r"step-\d{8}", name)]
        for name in whole:
            folder = self.run_dir / "checkpoints" / name
            manifest = json.loads((folder / "manifest.json").read_text())
            require(manifest["step"] == int(name[5:]), f"{name} says that it is of step {manifest['step']}")
            for file in manifest["files"]:
                digest = hashlib.sha256((folder / file["name"]).read_bytes()).hexdigest()
                require(digest == file["sha256"], f"{name}/{file['name']} is not what the manifest says")
            names = sorted([file["name"] for file in manifest["files"]] + ["manifest.json"])
            require(sorted(path.name for path in folder.iterdir()) == names, f"{name} has other files than {names}")
        return [int(name[5:]) for name in whole]

    def steps_in_metrics(self):
        """The number of each step that was done, in the order in which they were."""
        return [json.loads(line)["step"] for line in (self.run_dir / "metrics.jsonl").read_text().splitlines()]

    def left(self, step, charged, unfinished=()):
        """Sees what a broken run left: the newest checkpoint is of that step (None: the last one that was due), as many steps are charged
        (several numbers: whichever of two ranks was first decides), and nothing partial has its final name. Returns the step."""
        done = self.steps_in_metrics()
        require(done == list(range(1, len(done) + 1)), f"the metrics are of the steps {done}")
        due = len(done) - len(done) % CHECKPOINT_EVERY
        step = due if step is None else step
        require(self.checkpointed_steps()[-1] == step, f"{self.checkpoints()} instead of step {step}, after {len(done)} steps")
        spent = self.ledger()[1]
        charged = (charged,) if isinstance(charged, int) else charged
        require(spent in charged and spent >= len(done) >= step, f"{spent} steps are charged instead of {charged}, and {len(done)} were done")
        others = [name for name in self.checkpoints() if not re.fullmatch(r"step-\d{8}", name)]
        require(others == list(unfinished), f"beside the checkpoints: {others}")
        require(not (self.run_dir / "model").exists(), "there is a model of a run that was broken")
        return step

    def expect(self, ended, codes, within, says=()):
        codes = codes if isinstance(codes, tuple) else (codes,)
        require(ended.code in codes, f"ended with {ended.code} instead of {codes}; it said:\n{ended.text}")
        if ended.since_fault is not None:
            require(ended.since_fault < within + LATE, f"took {ended.since_fault:.1f} s, and {within:.0f} are allowed")
        for text in says:
            require(re.search(text, ended.text), f"does not say '{text}', but:\n{ended.text}")
        self.first = self.first or ended

    def resumes(self, from_step=None, seen_as=None):
        """Goes on to the end from that step (None: of the newest checkpoint), and sees that nothing that was spent is forgotten. The run
        may see its directory under another name than this process."""
        before, charged = self.ledger()
        told = len(self.steps_in_metrics())
        from_step = self.checkpointed_steps()[-1] if from_step is None else from_step
        own, self.run_dir = self.run_dir, seen_as or self.run_dir
        ended = self.run(resume=True)
        self.run_dir = own
        require(ended.code == 0, f"the resumed run ended with {ended.code}; it said:\n{ended.text}")
        require(re.search(rf"going on from \S*/step-{from_step:08d}\n", ended.text), f"did not go on from step {from_step}:\n{ended.text}")
        done = self.steps_in_metrics()[told:]
        require(done == list(range(from_step + 1, STEPS + 1)), f"the resumed run did the steps {done}")
        after, charged_in_all = self.ledger()
        require(after >= before, f"epsilon fell from {before} to {after}")
        require(charged_in_all == charged + STEPS - from_step, f"{charged_in_all} steps are charged, and before it were {charged}")
        require(self.checkpointed_steps()[-1] == STEPS, self.checkpoints())
        leftover = [name for name in self.checkpoints() if not re.fullmatch(r"step-\d{8}", name)]
        require(not leftover, f"left on disk: {leftover}")
        statement = json.loads((self.run_dir / "model/dp_metadata.json").read_text())
        require(statement["steps_in_model"] == STEPS and statement["steps"] == charged_in_all, "the model states other steps")
        return ended


def fault(kind, rank, step, operation):
    """For fault_run. The sum of the gradients is the step's all_reduce_sum; the noise follows as a broadcast."""
    return ["--fault", str(kind), str(rank), f"finetune step {step}", operation]


def last(case):
    return case.ranks - 1


# The cases. The first line of the text is what broke; the function's value says what is left on disk.


def case_rank_killed(case):
    """a rank is killed (SIGKILL)"""
    # The launcher notices, and its code is what a shell gives to a death by signal 9.
    case.expect(case.run(fault(int(signal.SIGKILL), last(case), 5, "all_reduce_sum")), 137, 1)
    case.left(4, charged=6)
    case.resumes()
    return "checkpoint of step 4"


def case_root_killed(case):
    """rank 0 is killed between the charge and the noise"""
    case.expect(case.run(fault(int(signal.SIGKILL), 0, 5, "all_reduce_sum")), 137, 1)
    case.left(4, charged=6)  # the step that was charged is in the ledger
    case.resumes()
    require(case.ledger()[1] == 10, "steps 4 and 5 were charged twice, as they must be")
    return "checkpoint of step 4; the lost steps stay charged"


def case_rank_stopped(case):
    """a rank is stopped (SIGSTOP)"""
    # By a broadcast, rank 0 tells that the step is charged.
    says = [rf"finetune step 5: all_reduce_sum of \d+ float32, collective \d+, on rank .*missing: rank {last(case)} on \S+, "
            r"last known in finetune step 5: broadcast of \d+ \w+ from rank 0, collective \d+ \(dead, stopped"]
    if case.ranks > 2:
        says.append(r"; rank \d waits in all_reduce_sum of \d+ float32, collective \d+")
    case.expect(case.run(fault(int(signal.SIGSTOP), last(case), 5, "all_reduce_sum")), 71, DEADLINE + 3, says)
    case.left(4, charged=6)
    case.resumes()
    return "checkpoint of step 4"


def case_root_stopped(case):
    """rank 0 is stopped (SIGSTOP)"""
    case.expect(case.run(fault(int(signal.SIGSTOP), 0, 5, "broadcast")), 71, DEADLINE + 3, [r"step 5: .*missing: rank 0 on "])
    # The stop comes before the charge, and the launcher continues a rank before it ends it.
    case.left(4, charged=(5, 6))
    case.resumes()
    return "checkpoint of step 4"


def case_suspended_and_continued(case):
    """all ranks are suspended (SIGSTOP) for longer than the deadline, and continued"""
    # Rank 0 stops itself, so that the others are in the collective, waiting for it, when they are stopped.
    process = case.start(fault(int(signal.SIGSTOP), 0, 5, "all_reduce_sum"))
    until = time.time() + LIMIT
    while "fault at" not in case.said():
        require(time.time() < until, f"rank 0 did not stop; it said:\n{case.said()}")
        time.sleep(0.02)
    ranks = case.rank_processes()
    time.sleep(DEADLINE / 10)
    for pid in ranks:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(2 * DEADLINE)
    for pid in ranks:
        os.kill(pid, signal.SIGCONT)
    case.expect(case.finish(process, time.time()), 0, 2 * DEADLINE + 10)
    require(len(ranks) == case.ranks and case.ledger()[1] == STEPS, f"{len(ranks)} ranks, and {case.ledger()[1]} steps are charged")
    require(case.checkpointed_steps()[-1] == STEPS and (case.run_dir / "model").exists(), case.checkpoints())
    return "the run ends as if nothing had happened"


def case_rank_throws(case):
    """a rank throws an exception"""
    case.expect(case.run(fault("throw", last(case), 5, "all_reduce_sum")), 70, 1, ["injected exception"])
    case.left(4, charged=6)
    case.resumes()
    return "checkpoint of step 4"


def case_message_hangs(case):
    """all ranks throw, and where stderr goes does not answer"""
    case.expect(case.run(fault("throw-unheard", "all", 5, "all_reduce_sum")), 70, 6)
    case.left(4, charged=6)
    case.resumes()
    return "checkpoint of step 4"


def case_collective_fails(case):
    """a collective fails"""
    case.expect(case.run(fault("fail", last(case), 3, "all_reduce_sum")), 71, 1, ["finetune step 3: all_reduce_sum: injected failure"])
    case.left(2, charged=4)
    case.resumes()
    return "checkpoint of step 2"


def case_collective_never_completes(case):
    """a collective never completes"""
    case.expect(case.run(fault("never", last(case), 3, "broadcast")), 71, DEADLINE + 3, ["finetune step 3: broadcast"])
    # The first broadcast of a step asks whether the budget allows it, before the charge.
    case.left(2, charged=3)
    case.resumes()
    return "checkpoint of step 2"


def case_mpi_hangs(case):
    """a call into MPI does not return, on any rank"""
    says = [r"finetune step 3: all_reduce_sum of \d+ float32, collective \d+, on rank \d of \d has not returned"]
    # The watchdog gives MPI twelve seconds beyond the deadline.
    case.expect(case.run(fault("mpi-hang", "all", 3, "all_reduce_sum")), 71, DEADLINE + 14, says)
    case.left(2, charged=4)
    case.resumes()
    return "checkpoint of step 2"


def in_small_file_system(case, num_bytes):
    """Has everything of this case run in a mount namespace where the run directory is a file system of that size."""
    keeper = small_file_system(case, case.run_dir, num_bytes)
    # What this process sees of it.
    case.run_dir = Path(f"/proc/{keeper.pid}/root{case.run_dir}")
    return keeper


def small_file_system(case, folder, num_bytes):
    """The process that keeps the namespace alive."""
    folder.mkdir()
    keeper = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh", "-c",
                               f"mount -t tmpfs -o size={num_bytes} tmpfs '{folder}' && echo ready && exec sleep 300"],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if keeper.stdout.readline().strip() != "ready":
        raise Skipped("mount namespaces are not allowed here")
    case.prefix = ["nsenter", "--mount", "--target", str(keeper.pid)]
    return keeper


def case_disk_full(case):
    """the disk is full"""
    outside = case.run_dir
    keeper = in_small_file_system(case, 8 << 20)
    try:
        inside, case.run_dir = case.run_dir, outside
        process = case.start(fault=["--slow", "300"])
        case.run_dir = inside
        case.wait_for_steps(3)
        # The rest of the disk, but for less than one checkpoint.
        with open(inside / "filler", "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(4096))
            except OSError:
                pass
        case.run_dir = outside
        case.expect(case.finish(process, time.time(), fault_at=time.time()), 74, 2, ["No space left on device"])
        case.run_dir = inside
        require("step-00000002" in case.checkpoints(), case.checkpoints())
        os.remove(inside / "filler")
        case.resumes(seen_as=outside)
        return "checkpoint of step 2"
    finally:
        keeper.kill()
        keeper.wait()


def case_directory_read_only(case):
    """the run directory is read-only"""
    outside = case.run_dir
    keeper = in_small_file_system(case, 16 << 20)
    try:
        inside, case.run_dir = case.run_dir, outside
        require(case.run(fault(int(signal.SIGUSR1), 0, 3, "all_reduce_sum")).code == 75, case.said())
        remount = ["nsenter", "--mount", "--target", str(keeper.pid), "mount", "-o", "remount,bind,ro", str(outside)]
        subprocess.run(remount, check=True)
        case.expect(case.run(resume=True), 74, 2, ["Read-only file system"])
        subprocess.run([word.replace(",ro", ",rw") for word in remount], check=True)
        case.run_dir = inside
        require(case.checkpoints() == ["step-00000002", "step-00000004"], case.checkpoints())
        case.resumes(seen_as=outside)
        return "what was there"
    finally:
        keeper.kill()
        keeper.wait()


def case_local_disk_full(case):
    """the nodes' own disk is full (data.local_copy)"""
    keeper = small_file_system(case, case.folder / "local", 16 << 10)  # smaller than the latent file
    try:
        case.expect(case.run(more=["--set", f"data.local_copy={case.folder}/local"]), 74, 5, ["cannot copy .* bytes, and .* are left there"])
        left = list(Path(f"/proc/{keeper.pid}/root{case.folder}/local").iterdir())
        require(not left, f"left on the local disk: {left}")
        require(not case.run_dir.exists(), "something was written")
        return "nothing is written"
    finally:
        keeper.kill()
        keeper.wait()


def stopped_after_four_steps(case):
    """A run with checkpoints of steps 2 and 4, stopped in order."""
    ended = case.run(fault(int(signal.SIGUSR1), 0, 3, "all_reduce_sum"))
    require(ended.code == 75, ended.text)
    require(case.checkpoints() == ["step-00000002", "step-00000004"], case.checkpoints())


def resumes_from_the_one_before(case, damage):
    began = time.time()
    ended = case.resumes(from_step=CHECKPOINT_EVERY)
    require("step-00000004 is damaged and is passed over" in ended.text, ended.text)
    require(damage in ended.text, ended.text)
    require("going on from" in ended.text and "step-00000002" in ended.text, ended.text)
    case.first = Ended(0, ended.text, None, time.time() - began)
    require(case.ledger()[1] == STEPS + 2, "steps 2 and 3 were charged twice, as they must be")
    return "the one before is used"


def case_checkpoint_truncated(case):
    """the newest checkpoint is truncated"""
    stopped_after_four_steps(case)
    path = case.run_dir / "checkpoints/step-00000004/weights.safetensors"
    os.truncate(path, path.stat().st_size - 1)
    return resumes_from_the_one_before(case, "bytes instead of")


def case_checkpoint_bit_flipped(case):
    """one bit of the newest checkpoint is flipped"""
    stopped_after_four_steps(case)
    path = case.run_dir / "checkpoints/step-00000004/optimizer.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)
    return resumes_from_the_one_before(case, "another SHA-256")


def case_manifest_bit_flipped(case):
    """one bit of the newest checkpoint's manifest is flipped"""
    stopped_after_four_steps(case)
    path = case.run_dir / "checkpoints/step-00000004/manifest.json"
    content = bytearray(path.read_bytes())
    # Of the line of the ledger that the checkpoint saw: the ledger has no such line, and has lost none all the same.
    content[content.rindex(b'"ledger_head": "') + 20] ^= 1
    path.write_bytes(content)
    return resumes_from_the_one_before(case, "its own SHA-256 does not match")


def case_manifest_missing(case):
    """the newest checkpoint's manifest is missing"""
    stopped_after_four_steps(case)
    (case.run_dir / "checkpoints/step-00000004/manifest.json").unlink()
    return resumes_from_the_one_before(case, "manifest.json")


def case_all_checkpoints_damaged(case):
    """all checkpoints are damaged"""
    stopped_after_four_steps(case)
    for path in (case.run_dir / "checkpoints").glob("*/weights.safetensors"):
        os.truncate(path, 10)
    before = case.ledger()
    case.expect(case.run(resume=True), 74, 5, ["all 2 checkpoints .* are damaged"])
    require(case.ledger() == before, "something was charged")
    return "the run refuses to start over"


def case_latents_truncated(case):
    """the latent file was truncated before the start"""
    os.truncate(case.latents, case.latents.stat().st_size // 2)
    case.expect(case.run(), 74, 5, [re.escape(str(case.latents))])
    require(not case.run_dir.exists(), "something was written")
    return "nothing is written"


def case_latents_truncated_under_way(case):
    """the latent file is truncated under way"""
    whole = case.latents.read_bytes()
    process = case.start(fault=["--slow", "300"])
    case.wait_for_steps(3)
    at = time.time()
    os.truncate(case.latents, 4096)
    case.expect(case.finish(process, at, fault_at=at), 74, 2, [re.escape(str(case.latents))])
    case.latents.write_bytes(whole)
    # What was read ahead may still be trained on.
    step = case.left(None, charged=range(3, STEPS))
    case.resumes()
    return f"checkpoint of step {step}"


def case_latents_overwritten_under_way(case):
    """the latent file is overwritten under way"""
    process = case.start(fault=["--slow", "300"])
    case.wait_for_steps(3)
    at = time.time()
    with open(case.latents, "r+b") as file:
        file.seek(-64, os.SEEK_END)
        tail = file.read(64)
        file.seek(-64, os.SEEK_END)
        file.write(bytes(64))
    case.expect(case.finish(process, at, fault_at=at), 74, 2, ["was written to while it was being read"])
    with open(case.latents, "r+b") as file:
        file.seek(-64, os.SEEK_END)
        file.write(tail)
    # What was read ahead may still be trained on.
    step = case.left(None, charged=range(3, STEPS))
    case.resumes()
    return f"checkpoint of step {step}"


def case_latents_replaced_under_way(case):
    """the latent file is replaced (by a rename) under way"""
    process = case.start(fault=["--slow", "300"])
    case.wait_for_steps(3)
    at = time.time()
    shutil.copy(case.latents, case.folder / "other.h5")
    os.truncate(case.folder / "other.h5", 4096)
    os.replace(case.folder / "other.h5", case.latents)
    # The file that was opened is still there, under no name.
    case.expect(case.finish(process, at, fault_at=at), 0, 60)
    require(case.ledger()[1] == STEPS, "not all steps were charged")
    return "the run ends as if nothing had happened"


def asked_to_stop(case, signals):
    process = case.start(fault=["--slow", "300"])
    case.wait_for_steps(3)
    at = time.time()
    for number in signals:
        process.send_signal(number)
    ended = case.finish(process, at, fault_at=at)
    case.expect(ended, 75, 3, ["a checkpoint is in"])
    steps = len((case.run_dir / "metrics.jsonl").read_text().splitlines())
    require(case.checkpoints()[-1] == f"step-{steps:08d}", f"{case.checkpoints()} after {steps} steps")
    case.resumes()
    require(case.ledger()[1] == STEPS, "a step was charged twice though nothing was lost")
    return "checkpoint of the step that was under way"


def case_sigusr1(case):
    """SIGUSR1 to the launch script"""
    return asked_to_stop(case, [signal.SIGUSR1])


def case_sigterm(case):
    """SIGTERM to the launch script"""
    return asked_to_stop(case, [signal.SIGTERM])


def case_two_signals(case):
    """SIGUSR1 twice to the launch script"""
    return asked_to_stop(case, [signal.SIGUSR1, signal.SIGUSR1])


def case_sigusr1_then_sigterm(case):
    """SIGUSR1, then SIGTERM, to the launch script (a warning, then pre-emption)"""
    return asked_to_stop(case, [signal.SIGUSR1, signal.SIGTERM])


def case_sigterm_to_one_rank(case):
    """SIGTERM to one rank"""
    process = case.start(fault=["--slow", "300"])
    case.wait_for_steps(3)
    at = time.time()
    os.kill(max(case.rank_processes()), signal.SIGTERM)
    case.expect(case.finish(process, at, fault_at=at), 75, 3, ["a checkpoint is in"])
    case.resumes()
    require(case.ledger()[1] == STEPS, "a step was charged twice though nothing was lost")
    return "checkpoint of the step that was under way"


def case_stopped_before_the_first_step(case):
    """SIGUSR1 while the run is being set up"""
    case.expect(case.run(fault=["--signal-at-start", str(int(signal.SIGUSR1))]), 75, 3, ["before the first step of this start"])
    require(not case.run_dir.exists(), "something was written")
    ended = case.run()
    require(ended.code == 0 and case.ledger()[1] == STEPS, ended.text)
    # The same in a run that is there already.
    shutil.rmtree(case.run_dir)
    stopped_after_four_steps(case)
    again = case.run(fault=["--signal-at-start", str(int(signal.SIGUSR1))], resume=True)
    require(again.code == 75 and case.ledger()[1] == 4, again.text)
    case.resumes()
    return "nothing is written; the same command starts the run"


def case_allocation_ends(case):
    """the end of the Slurm allocation comes near (by the clock)"""
    # A minute is kept for the first checkpoint, whose length nobody knows yet.
    case.more_environment = {"SLURM_JOB_END_TIME": str(int(time.time()) + 45)}
    case.expect(case.run(), 75, 60, ["the end of the Slurm allocation", "a checkpoint is in"])
    require(case.checkpoints() == ["step-00000001"], case.checkpoints())
    case.more_environment = {}
    case.resumes()
    require(case.ledger()[1] == STEPS, "a step was charged twice though nothing was lost")
    return "checkpoint of step 1"


def case_step_limit(case):
    """checkpoint.max_steps is reached"""
    limit = ["--set", "checkpoint.max_steps=3"]
    case.expect(case.run(more=limit), 75, 60, ["stopped by checkpoint.max_steps after step 3 of 8"])
    require(case.checkpoints()[-1] == "step-00000003", case.checkpoints())
    require(case.run(more=limit, resume=True).code == 75, case.said())
    require(case.checkpoints()[-1] == "step-00000006", case.checkpoints())
    ended = case.run(more=limit, resume=True)
    require(ended.code == 0 and case.ledger()[1] == STEPS, ended.text)
    return "checkpoint of step 3"


def case_parameters_differ(case):
    """one bit of each number that a rank received is wrong"""
    ended = case.run(fault("corrupt", last(case), 4, "all_reduce_sum"))
    case.expect(ended, 71, 3, [f"the parameters after step 6 are not the same on all ranks: rank {last(case)} differs from rank 0"])
    case.left(4, charged=6)
    case.resumes()
    return "checkpoint of step 4; the wrong one is not written"


def case_reads_hang(case):
    """the file system of the latents hangs"""
    says = [r"finetune step \d on rank \d of \d: reading .*latents.h5.* has not returned"]
    case.expect(case.run(fault("reads-hang", "all", 3, "all_reduce_sum")), 71, DEADLINE + 4, says)
    require("step-00000002" in case.checkpoints(), case.checkpoints())
    case.resumes()
    return "the last checkpoint"


def case_reads_hang_on_one_rank(case):
    """the file system of the latents hangs on one node"""
    says = [rf"missing: rank {last(case)} on |on rank {last(case)} of \d: reading .*latents.h5.* has not returned"]
    case.expect(case.run(fault("reads-hang", last(case), 3, "all_reduce_sum")), 71, DEADLINE + 4, says)
    require("step-00000002" in case.checkpoints(), case.checkpoints())
    case.resumes()
    return "the last checkpoint"


def case_ledger_hangs(case):
    """the file system of the run directory hangs"""
    says = [r"step 5: .*missing: rank 0 on |step 5 on rank 0 of \d: syncing .*ledger.jsonl has not returned"]
    case.expect(case.run(fault("syncs-hang", 0, 5, "broadcast")), 71, DEADLINE + 4, says)
    require(case.checkpoints()[-1] == "step-00000004", case.checkpoints())
    case.resumes()
    return "checkpoint of step 4"


def case_background_checkpoint_hangs(case):
    """a checkpoint in the background never ends"""
    says = [r"on rank 0 of \d: syncing .*step-00000004.tmp/.* has not returned"]
    ended = case.run(fault=["--hang-at-sync", "1", "--slow", "500"], more=["--set", "checkpoint.in_background=true"])
    case.expect(ended, 71, DEADLINE + 4, says)
    whole = [name for name in case.checkpoints() if re.fullmatch(r"step-\d{8}", name)]
    require(whole == ["step-00000002"], case.checkpoints())
    case.resumes()
    return "checkpoint of step 2, and leftovers that the next save removes"


def case_checkpoint_rename_hangs(case):
    """the rename that makes a checkpoint in the background whole never ends"""
    says = [r"on rank 0 of \d: renaming .*step-00000004.tmp has not returned"]
    broken = ["--hang-at-rename", "step-00000004.tmp", "--slow", "500"]
    case.expect(case.run(fault=broken, more=IN_BACKGROUND), 71, DEADLINE + 4, says)
    case.left(2, charged=(4, 5, 6), unfinished=["step-00000004.tmp"])
    case.resumes()
    return "checkpoint of step 2, and leftovers that the next save removes"


def case_two_resume_at_once(case):
    """a run is resumed twice at the same time"""
    stopped_after_four_steps(case)
    first = case.start(fault=["--slow", "2500"], resume=True)
    case.wait_for_steps(5)
    # Of the first one what it says is kept by the file it has open.
    began = time.time()
    second = case.finish_beside(case.start(resume=True), began)
    case.expect(second, 74, 5, ["run.lock is held: another process is using this directory"])
    require(first.wait(timeout=LIMIT) == 0, "the first one did not go on to its end")
    require(case.ledger()[1] == STEPS, "a step was charged twice")
    return "the first one goes on as if nothing had happened"


def case_two_start_at_once(case):
    """a run is started twice at the same time"""
    began = time.time()
    both = [case.start(), case.start()]
    codes = sorted(process.wait(timeout=2 * LIMIT) for process in both)
    case.no_rank_is_left()
    require(codes[0] == 0 and codes[1] in (64, 74), f"they ended with {codes}")
    case.first = Ended(codes[1], case.said(), None, time.time() - began)
    require(case.ledger()[1] == STEPS, "a step was charged twice")
    return "one of them runs to its end"


def case_killed_during_checkpoint(case):
    """kill -9 during the checkpoint of step 4"""
    # The first file, the second, the manifest, and the directory just before it gets its name.
    for sync in (1, 4, 7, 9):
        shutil.rmtree(case.run_dir, ignore_errors=True)
        case.expect(case.run(fault=["--kill-at-sync", str(sync)]), 137, 1)
        whole = [name for name in case.checkpoints() if re.fullmatch(r"step-\d{8}", name)]
        require(whole == ["step-00000002"], f"killed at sync {sync}: {case.checkpoints()}")
        if sync in (1, 9):
            case.resumes()
    return "checkpoint of step 2, and leftovers that the next save removes"


def case_killed_after_checkpoint(case):
    """kill -9 when the checkpoint of step 4 has its name, and older ones are to be removed"""
    case.expect(case.run(fault=["--kill-at-commit", "2"], more=["--set", "checkpoint.keep_last=1"]), 137, 1)
    require(case.checkpoints() == ["step-00000002", "step-00000004"], case.checkpoints())
    case.resumes()
    require(case.ledger()[1] == STEPS, "a step was charged twice though nothing was lost")
    return "checkpoint of step 4, and the one before"


def case_killed_during_set_up(case):
    """kill -9 while the run is being set up"""
    # When there is nothing but config.yaml, when the ledger has its first line and no head yet, and when it has both.
    for sync in (2, 5, 6):
        shutil.rmtree(case.run_dir, ignore_errors=True)
        case.expect(case.run(fault=["--kill-at-setup-sync", str(sync)]), 137, 1)
        require((case.run_dir / "config.yaml").exists() and not (case.run_dir / "metrics.jsonl").exists(), sorted(case.run_dir.iterdir()))
        ended = case.run(resume=True)
        require(ended.code == 0 and case.ledger()[1] == STEPS, f"killed at sync {sync}: {ended.text}")
        require(("it begins anew" in ended.text) == (sync < 6), f"killed at sync {sync}: {ended.text}")
    return "nothing was spent; resumed, the run begins"


IN_BACKGROUND = ["--set", "checkpoint.in_background=true"]


def case_killed_during_background_checkpoint(case):
    """kill -9 while the checkpoint of step 4 is written in the background"""
    case.expect(case.run(fault=["--kill-at-sync", "4"], more=IN_BACKGROUND), 137, 1)
    whole = [name for name in case.checkpoints() if re.fullmatch(r"step-\d{8}", name)]
    require(whole == ["step-00000002"], case.checkpoints())
    case.resumes()
    return "checkpoint of step 2, and leftovers that the next save removes"


def case_background_checkpoint_fails(case):
    """a checkpoint in the background cannot be written"""
    case.expect(case.run(fault=["--fail-at-sync", "1"], more=IN_BACKGROUND), 74, 1, ["step-00000004"])
    require(case.checkpoints() == ["step-00000002"], case.checkpoints())
    case.resumes()
    return "checkpoint of step 2"


def last_rank_starts(case, own, other):
    """How a job ended whose last rank was started by another command than the ranks before it."""
    command = ["mpirun", "-np", str(case.ranks - 1), *own, ":", "-np", "1", *other]
    began = time.time()
    process = subprocess.Popen(command, env=case.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=open(case.folder / "err", "wb"), start_new_session=True)
    return case.finish(process, began)


def case_ranks_differ(case):
    """the ranks were given different configurations"""
    own = [str(case.build / "tests/fault_run"), "finetune", *case.arguments(False)]
    case.expect(last_rank_starts(case, own, [*own, "--set", "optimizer.learning_rate=0.5"]), 64, 5,
                [rf"the configuration must be the same on all ranks, but rank {last(case)} has '  learning_rate: 0.5' where"])
    require(not case.run_dir.exists(), "something was written")
    return "nothing is written"


def case_ranks_of_different_builds(case):
    """a rank was started from another build of the same version"""
    program = case.build / "tests/fault_run"
    other = case.folder / "other/fault_run"
    other.parent.mkdir()
    # What follows the end of an ELF file does not change what it does.
    other.write_bytes(program.read_bytes() + b"\0")
    other.chmod(0o755)
    arguments = ["finetune", *case.arguments(False)]
    facts = r"'dpldm [^']*, executable {}'"
    digests = [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in (program, other)]
    case.expect(last_rank_starts(case, [str(program), *arguments], [str(other), *arguments]), 64, 5,
                [rf"the program must be the same on all ranks, but rank {last(case)} has {facts.format(digests[1])} "
                 rf"where rank 0 has {facts.format(digests[0])}"])
    require(not case.run_dir.exists(), "something was written")
    return "nothing is written"


class Encode:
    """`dpldm-data encode` of 64 images in 32 batches, with a fault."""

    def __init__(self, case):
        self.case = case
        self.images = case.folder / "images.h5"
        render = ["render", "--kind", "shapes", "--num", "64", "--size", "8", "-o", self.images]
        subprocess.run([case.build / "bin/dpldm-data", *render], check=True, env=case.environment(), timeout=60, capture_output=True)
        require(self.run(1, "whole.h5").code == 0, case.said())

    def run(self, *args, **kwargs):
        return self.case.finish(*self.start(*args, **kwargs))

    def start(self, ranks, output, signal_number=0, rank=0, sync=0, save_every=0, deadline=DEADLINE):
        """The rank gets the signal (0: hangs for ever) at that sync of what it wrote, counted from 1."""
        case = self.case
        fault_of_encode = map(str, (int(signal_number), rank, sync, int(deadline)))
        command = ["mpirun", "-np", str(ranks), str(case.build / "tests/fault_run"), "encode", *fault_of_encode, "--model", case.folder / "tiny",
                   "--images", self.images, "--flips", "--batch", "2", "--threads", "1", "--save-every", str(save_every), "-o", case.folder / output]
        began = time.time()
        process = subprocess.Popen(command, env=case.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=open(case.folder / "err", "wb"), start_new_session=True)
        return process, began

    def goes_on(self, at_least):
        """On one rank less, from the batches that are safe, to the same file."""
        case = self.case
        left = sorted(path.name for path in case.folder.glob("out.h5*"))
        require(len(left) == 2 and all(name.startswith("out.h5.unfinished-") for name in left), left)
        safe = sum((case.folder / left[1]).read_bytes())
        require(safe >= at_least, f"{safe} batches were marked")
        ended = self.run(case.ranks - 1, "out.h5")
        require(ended.code == 0 and f"{safe} of 32 batches are done" in ended.text, ended.text)
        require((case.folder / "out.h5").read_bytes() == (case.folder / "whole.h5").read_bytes(), "another file than without the interruption")
        require(len(list(case.folder.glob("out.h5*"))) == 1, "something was left behind")
        return "the unfinished file; the same command goes on, on any number of ranks, to the same file"


def case_encode_killed(case):
    """a rank of `dpldm-data encode` is killed"""
    encode = Encode(case)
    # The last rank had two of its batches safe, and dies with the third.
    case.expect(encode.run(case.ranks, "out.h5", signal.SIGKILL, last(case), 3), 137, 1)
    return encode.goes_on(at_least=2)


def case_encode_stopped(case):
    """a rank of `dpldm-data encode` is stopped (SIGSTOP)"""
    encode = Encode(case)
    missing = rf"encode: all_reduce_max of 1 int32, collective \d+, on rank .*missing: rank {last(case)} on \S+, last known in "
    case.expect(encode.run(case.ranks, "out.h5", signal.SIGSTOP, last(case), 3), 71, DEADLINE + 4, [missing])
    return encode.goes_on(at_least=2)


def case_encode_images_cut(case):
    """the images are truncated or overwritten while `dpldm-data encode` reads them"""
    encode = Encode(case)
    whole = encode.images.read_bytes()

    def overwrite():
        with open(encode.images, "r+b") as file:
            file.seek(len(whole) // 2)
            file.write(bytes(64))

    for change in (lambda: os.truncate(encode.images, len(whole) // 2), overwrite):
        # While the last rank, which has two of its batches safe, stands still.
        process, began = encode.start(case.ranks, "out.h5", signal.SIGSTOP, last(case), 3, deadline=20)
        case.wait_until_said("fault at")
        change()
        for pid in case.rank_processes():
            os.kill(pid, signal.SIGCONT)
        case.expect(case.finish(process, began), 74, 4, ["images.h5 was written to while it was being read"])
        require(not (case.folder / "out.h5").exists(), "there is a file")
        encode.images.write_bytes(whole)
    return encode.goes_on(at_least=2)


def case_encode_hangs(case):
    """the file system hangs when `dpldm-data encode` syncs what it wrote"""
    encode = Encode(case)
    says = r"encode on rank {} of \d: syncing .*out.h5.unfinished-\S+ has not returned"
    # Under way, and when a rank alone has come to its end.
    case.expect(encode.run(case.ranks, "out.h5", 0, last(case), 3), 71, DEADLINE + 4, [says.format(last(case)) + "|missing: rank "])
    case.expect(encode.run(1, "out.h5", 0, 0, 1, save_every=3600), 71, DEADLINE + 4, [says.format(0)])
    return encode.goes_on(at_least=2)


CASES = {name[5:]: function for name, function in list(globals().items()) if name.startswith("case_")}


def carry_out(build, ranks, name):
    """The case and what its function says."""
    with tempfile.TemporaryDirectory(prefix="dpldm-fault-") as folder:
        case = Case(build, ranks, Path(folder))
        try:
            return case, CASES[name](case)
        finally:
            case.end_ranks()


def print_table(build):
    print("| what breaks | code | seconds until the job has ended, 2 ranks | 3 ranks | left on disk |")
    print("| --- | --- | --- | --- | --- |")
    for name, function in CASES.items():
        times, codes, left = [], [], ""
        for ranks in (2, 3):
            try:
                case, left = carry_out(build, ranks, name)
            except Skipped as reason:
                times.append(f"skipped: {reason}")
                continue
            ended = case.first
            times.append(ended.seconds())
            if str(ended.code) not in codes:
                codes.append(str(ended.code))
        print(f"| {function.__doc__} | {' or '.join(codes)} | {' | '.join(times)} | {left} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, required=True)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("case", nargs="?", choices=sorted(CASES))
    options = parser.parse_args()
    if options.table:
        print_table(options.build.resolve())
        return 0
    try:
        case, left = carry_out(options.build.resolve(), options.ranks, options.case)
    except Skipped as reason:
        print(f"skipped: {reason}")
        return 77
    except Failed as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        return 1
    ended = case.first
    print(f"ended with {ended.code} after {ended.seconds()} s; {left}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
