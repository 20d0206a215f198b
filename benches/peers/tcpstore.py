#!/usr/bin/env python3
"""Rendezvous, one exchange of 32 bytes and one barrier of many clients with torch's TCPStore: the peer of
`cargo bench --bench rendezvous -- N`. Needs torch. The server has a process of its own; the clients are real
connections, driven by threads of a second process (the store's calls run outside Python's lock).

    python3 benches/peers/tcpstore.py 2048
"""

import datetime
import multiprocessing
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from torch.distributed import TCPStore

PATIENCE = datetime.timedelta(seconds=300)


def serve(port, ended):
    store = TCPStore("127.0.0.1", 0, None, True, PATIENCE, wait_for_workers=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    port.put(store.port)
    ended.wait()
    print(f"memory       {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before} KiB")


def main(size):
    context = multiprocessing.get_context("spawn")
    port, ended = context.Queue(), context.Event()
    server = context.Process(target=serve, args=(port, ended))
    server.start()
    at = port.get(timeout=60)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    keys = [f"blob/{rank}" for rank in range(size)]
    with ThreadPoolExecutor(size) as threads:
        start = time.monotonic()
        clients = list(threads.map(lambda _: TCPStore("127.0.0.1", at, None, False, PATIENCE, wait_for_workers=False), range(size)))
        joined = time.monotonic()

        def exchange(rank):
            clients[rank].set(keys[rank], f"{rank:032}")
            clients[rank].wait(keys, PATIENCE)
            return clients[rank].multi_get(keys)

        def barrier(rank):
            if clients[rank].add("barrier", 1) == size:
                clients[rank].set("all", "here")
            clients[rank].wait(["all"], PATIENCE)

        for blobs in threads.map(exchange, range(size)):
            assert len(blobs) == size and int(blobs[-1]) == size - 1
        list(threads.map(barrier, range(size)))
        done = time.monotonic()
    print(f"rendezvous   {joined - start:.3f} s")
    print(f"exchange of 32 B a client, then a barrier   {done - joined:.3f} s")
    print(f"together     {done - start:.3f} s")
    ended.set()
    server.join(10)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2048)
