"""Other tracers on the same workload. Each is set up once, runs the workload, and is undone."""

import glob
import os
import re
import shutil
import subprocess
import time

from bench_workload import Failure, Skip, call, said


class Uftrace:
    """Hooks of the library's PLT: no source edited, no stack but what is hooked."""

    name = "uftrace"

    def __init__(self, workload):
        self.data = f"{workload.scratch}/uftrace"
        self.before = ["uftrace", "record", "--force", "--nest-libcall", "--no-event", "--no-pager", "-d", self.data]
        self.app = workload.app
        self.env = None
        if not shutil.which("uftrace"):
            raise Skip("uftrace is not installed")
        self.forget()
        workload.run("callback", before=self.before, events=100, batches=1)
        report = call(["uftrace", "report", "--no-pager", "-d", self.data])
        seen = re.search(r"(\d+)\s+host_callback$", report, re.M)
        if not seen or int(seen[1]) != 100:
            raise Skip(f"it recorded {seen[1] if seen else 0} of 100 callbacks")
        self.forget()

    def forget(self):
        shutil.rmtree(self.data, ignore_errors=True)

    def recorded_bytes(self):
        return sum(os.path.getsize(path) for path in glob.glob(f"{self.data}/*.dat"))

    def close(self):
        self.forget()


class Lttng:
    """Two tracepoints in the host's edited source, into buffers that overwrite: nothing is written to a file."""

    name = "LTTng-UST"

    def __init__(self, workload):
        self.before = []
        self.daemon = None
        self.session = f"traceshim-bench-{os.getpid()}"
        self.env = dict(os.environ, LTTNG_HOME=f"{workload.scratch}/lttng")
        if not shutil.which("lttng-sessiond"):
            raise Skip("lttng-tools is not installed")
        os.makedirs(self.env["LTTNG_HOME"], exist_ok=True)
        try:
            call(["gcc", "-E", "-include", "lttng/tracepoint.h", "-x", "c", "/dev/null"])
        except Failure as error:
            raise Skip("liblttng-ust-dev is not installed") from error
        self.app = workload.build_host("bench-lttng", "-DWITH_LTTNG", "-Ic-fixtures/c/bench", "-llttng-ust", "-ldl")
        try:
            self.start()
            # Did it record? The buffers' content is asked for once.
            workload.run("callback", app=self.app, env=self.env, events=100, batches=1)
            call(["lttng", "snapshot", "record", "-s", self.session], env=self.env)
            data = glob.glob(f"{self.env['LTTNG_HOME']}/**/ch_*", recursive=True)
            if not data or sum(map(os.path.getsize, data)) == 0:
                raise Skip("it recorded nothing")
        except Failure as error:
            self.close()
            raise Skip(str(error)) from error
        except Skip:
            self.close()
            raise

    def start(self):
        if subprocess.run(["lttng", "list"], env=self.env, capture_output=True, check=False).returncode != 0:
            self.daemon = subprocess.Popen(["lttng-sessiond", "--no-kernel"], env=self.env, stdin=subprocess.DEVNULL,
                                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            deadline = time.monotonic() + 10
            while subprocess.run(["lttng", "list"], env=self.env, capture_output=True, check=False).returncode != 0:
                if time.monotonic() > deadline or self.daemon.poll() is not None:
                    raise Skip("lttng-sessiond didn't start")
                time.sleep(0.1)
        for command in (["create", self.session, "--snapshot"],
                        ["enable-channel", "-u", "-s", self.session, "--overwrite", "--subbuf-size=1M",
                         "--num-subbuf=8", "ch"],
                        ["enable-event", "-u", "bench:*", "-s", self.session, "-c", "ch"],
                        ["start", self.session]):
            call(["lttng", *command], env=self.env)

    def forget(self):
        pass

    def close(self):
        subprocess.run(["lttng", "destroy", self.session], env=self.env, capture_output=True, check=False)
        if self.daemon:
            self.daemon.terminate()
            self.daemon.wait()


class Uprobes:
    """perf's probes of a function's entry and return, by the kernel."""

    name = "perf uprobes"

    def __init__(self, workload):
        self.group = f"traceshim_{os.getpid()}"
        self.data = f"{workload.scratch}/perf.data"
        self.app = workload.app
        self.env = None
        if not shutil.which("perf"):
            raise Skip("perf is not installed")
        for probe in ("enter=host_callback", "exit=host_callback%return"):
            done = subprocess.run(["perf", "probe", "-q", "-x", self.app, f"{self.group}:{probe}"],
                                  capture_output=True, text=True, check=False)
            if done.returncode != 0:
                self.close()
                raise Skip(said(done.stderr))
        self.before = ["perf", "record", "-q", "-e", f"{self.group}:enter,{self.group}:exit*", "-o", self.data]
        try:
            workload.run("callback", before=self.before, events=100, batches=1)
            seen = call(["perf", "script", "-i", self.data]).count(f"{self.group}:enter")
        except Failure as error:
            self.close()
            raise Skip(str(error)) from error
        if seen != 100:
            self.close()
            raise Skip(f"it recorded {seen} of 100 callbacks")

    def forget(self):
        if os.path.exists(self.data):
            os.remove(self.data)

    def close(self):
        self.forget()
        subprocess.run(["perf", "probe", "-q", "-d", f"{self.group}:*"], capture_output=True, check=False)


PEERS = (Uftrace, Lttng, Uprobes)
