#!/usr/bin/env python3
"""The node check of NVIDIA's ft_launcher (nvidia-resiliency-ext): its health service, answered by gonogo, and the launcher under it.

    nvrx-check.py /tmp/gonogo-$SLURM_JOB_ID.sock ft_launcher --ft-node-health-check-endpoint /tmp/gonogo-$SLURM_JOB_ID.sock ... train.py

ft_launcher asks before each rendezvous, and takes a node for well whose service is not there, or does not answer within its minute. So
the service is this launcher's parent: the launcher starts when it listens, asks it by name, and ends when it dies. Every answer comes
in time, and only GO is well. Exit code: the launcher's; 2 where it was not started. node-check.sh beside this file has the settings.
"""

import ctypes
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from concurrent import futures

METHOD = "/nvhcd.HealthCheckService/RunHealthCheck"
# What an answer needs, and the kill of a check that hangs: seconds of those that the caller waits. 60 are its default.
SPARE = 10
PATIENCE = 60
NOT_PROVEN = 2
# What others are to see: gRPC's own variables are for this process.
ENVIRONMENT = dict(os.environ)


def end(why):
    print(f"nvrx-check: {why}; the launcher was not started", file=sys.stderr)
    sys.exit(NOT_PROVEN)


def node_check(seconds):
    """The check's exit code, and what it says where that is not 0."""
    here = os.path.dirname(os.path.abspath(__file__))
    command = [os.environ.get("GONOGO_NODE_CHECK", os.path.join(here, "node-check.sh"))]
    command += os.environ.get("GONOGO_FLAGS", "").split()
    wanted = int(os.environ.get("GONOGO_HEALTH_SECONDS", seconds))
    environment = {**ENVIRONMENT, "GONOGO_HEALTH_SECONDS": str(min(wanted, seconds))}
    try:
        ran = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds + SPARE - 2
        )
    except subprocess.TimeoutExpired:
        return NOT_PROVEN, f"{command[0]} did not end within {seconds + SPARE - 2} s"
    except OSError as error:
        return NOT_PROVEN, f"{command[0]} cannot be run: {error}"
    return (ran.returncode if ran.returncode in (0, 1) else NOT_PROVEN), ran.stdout.decode(errors="replace").strip()


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out) + bytes([number])


def answer(code, said):
    """nvhcd.HealthCheckResponse: success = 1, exit_code = 2, output = 3 (JSON), error = 4, as protobuf writes them."""
    output = {"fail_count": int(code != 0), "failed_checks": [] if code == 0 else [f"gonogo: {said.splitlines()[0] if said else code}"]}
    out = bytes([1 << 3, int(code == 0), 2 << 3, code])
    for number, text in ((3, json.dumps(output)), (4, said if code else "")):
        text = text.encode()
        out += bytes([number << 3 | 2]) + varint(len(text)) + text
    return out


def run_health_check(_arguments, context):
    # What the caller would have the check do is not asked: the settings are those of who started the service.
    left = context.time_remaining()
    seconds = int(min(PATIENCE if left is None else left, PATIENCE)) - SPARE
    if seconds < 1:
        return answer(NOT_PROVEN, f"the caller waits for {left:.0f} s, and the check takes 15: give it {PATIENCE}")
    try:
        return answer(*node_check(seconds))
    except Exception as error:
        # An answer that breaks off would pass for a healthy node.
        return answer(NOT_PROVEN, f"the check could not be run: {error}")


def serve(path):
    # It would say at each check that it leaves its threads alone.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    try:
        import grpc
    except ImportError as error:
        end(f"no gRPC here ({error}): pip install grpcio, which ft_launcher needs as well")

    class Service(grpc.GenericRpcHandler):
        def service(self, details):
            return grpc.unary_unary_rpc_method_handler(run_health_check) if details.method == METHOD else None

    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            end(f"{path} is there, and is no socket")
        with socket.socket(socket.AF_UNIX) as caller:
            if caller.connect_ex(path) == 0:
                end(f"another service listens at {path}")
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        end(f"{path}: {error.strerror}")
    # One check at a time: two would measure each other.
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1), handlers=(Service(),))
    before = os.umask(0o177)
    try:
        bound = server.add_insecure_port(f"unix://{path}")
    except RuntimeError:
        bound = 0
    os.umask(before)
    if not bound:
        end(f"nothing can listen at {path}")
    server.start()
    return server


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    path, command = os.path.abspath(sys.argv[1]), sys.argv[2:]
    if not any(path in word or sys.argv[1] in word for word in command):
        end(f"the command does not name {path}, so that nobody would ask: add --ft-node-health-check-endpoint {path}")
    server = serve(path)

    libc, service = ctypes.CDLL(None), os.getpid()

    def dies_with_us():
        # PR_SET_PDEATHSIG: without the service every node would pass for well.
        libc.prctl(1, signal.SIGTERM)
        if os.getppid() != service:
            os._exit(NOT_PROVEN)

    try:
        launcher = subprocess.Popen(command, env=ENVIRONMENT, preexec_fn=dies_with_us)
    except OSError as error:
        os.unlink(path)
        end(f"{command[0]} cannot be run: {error.strerror}")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, _: launcher.send_signal(number))
    code = launcher.wait()
    server.stop(grace=None)
    if os.path.exists(path):
        os.unlink(path)
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
