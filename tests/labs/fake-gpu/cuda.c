// A libcuda.so.1, libcublasLt.so.12, libnvidia-ml.so.1 and libnccl.so.2 in one, that stand in for a machine with GPUs: README.md says what of
// it is like one. It measures nothing: no figure of it may go into a report that is kept.
//
//     cc -shared -fPIC -O2 -w -o libcuda.so.1 cuda.c
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define ALIVE                                                                                                                              \
    do {                                                                                                                                   \
        if (lost) return 999;                                                                                                              \
    } while (0)
#include "arithmetic.c"
#include "machines.c"
#include "faults.c"
#include "clock.c"
#include "memory.c"
#include "pinned.c"
#include "stream.c"
#include "kernels.c"
#include "blas.c"
#include "nvml.c"
#include "nvml-state.c"
#include "nccl.c"
#include "device.c"
#include "allocate.c"

// Streams, events and kernels: the rest of the driver.

R cuStreamCreate(void **out, unsigned f) {
    ALIVE;
    struct stream *s = calloc(1, sizeof *s);
    s->gpu = current;
    s->tail = &s->head;
    pthread_mutex_lock(&lock);
    s->next = streams;
    streams = s;
    pthread_mutex_unlock(&lock);
    *out = s;
    return 0;
}
// The stream without a name.
static struct stream *none(int gpu) {
    static struct stream *of[32];
    if (!of[gpu & 31]) cuStreamCreate((void **)&of[gpu & 31], 0);
    return of[gpu & 31];
}
R cuStreamDestroy_v2(struct stream *s) {
    // What it still has to do is done; one that waits for other processes is left.
    pthread_mutex_lock(&lock);
    pump();
    if (!s->head)
        for (struct stream **x = &streams; *x; x = &(*x)->next)
            if (*x == s) {
                *x = s->next;
                free(s);
                break;
            }
    pthread_mutex_unlock(&lock);
    return 0;
}
R cuStreamSynchronize(void *s) {
    ALIVE;
    wait_for(STREAM(s));
    ALIVE;
    return 0;
}
R cuStreamQuery(void *st) {
    ALIVE;
    struct stream *s = STREAM(st);
    if (hangs(s->gpu)) return 600;
    pthread_mutex_lock(&lock);
    pump();
    Time t = now();
    int busy = s->head || s->t > t;
    settle(t);
    pthread_mutex_unlock(&lock);
    return busy ? 600 : 0;
}
R cuStreamWaitEvent(void *s, struct event *e, unsigned f) {
    ALIVE;
    struct op *o = op_new(WAIT, STREAM(s));
    o->e = e;
    o->generation = e->asked;
    queue(o);
    return 0;
}
R cuEventCreate(void **e, unsigned f) {
    ALIVE;
    *e = calloc(1, sizeof(struct event));
    return 0;
}
R cuEventDestroy_v2(struct event *e) {
    pthread_mutex_lock(&lock);
    // One that is still to be recorded is not freed.
    int busy = e->asked != e->done;
    pthread_mutex_unlock(&lock);
    if (!busy) free(e);
    return 0;
}
R cuEventRecord(struct event *e, void *s) {
    ALIVE;
    struct op *o = op_new(RECORD, STREAM(s));
    pthread_mutex_lock(&lock);
    o->e = e;
    o->generation = ++e->asked;
    pthread_mutex_unlock(&lock);
    queue(o);
    return 0;
}
R cuEventQuery(struct event *e) {
    ALIVE;
    pthread_mutex_lock(&lock);
    pump();
    int busy = e->asked != e->done || e->at > now();
    pthread_mutex_unlock(&lock);
    return busy ? 600 : 0;
}
R cuEventSynchronize(struct event *e) {
    ALIVE;
    if (fault("hang") && hangs(current))
        for (;;) pause();
    pthread_mutex_lock(&lock);
    for (pump(); e->asked != e->done; pump()) pthread_cond_wait(&changed, &lock);
    Time t = e->at;
    pthread_mutex_unlock(&lock);
    sleep_until(t);
    pthread_mutex_lock(&lock);
    settle(now());
    pthread_mutex_unlock(&lock);
    ALIVE;
    return 0;
}
R cuEventElapsedTime(float *ms, struct event *a, struct event *b) {
    pthread_mutex_lock(&lock);
    pump();
    int unknown = !a->asked || !b->asked, busy = a->asked != a->done || b->asked != b->done || a->at > now() || b->at > now();
    // Half a microsecond is what it resolves.
    *ms = (b->at - a->at) / 500 * 500 * 1e-6;
    pthread_mutex_unlock(&lock);
    return unknown ? 400 : busy ? 600 : 0;
}

R cuModuleLoadData(void **m, const void *text) {
    ALIVE;
    if (!strstr(text, ".version 7.7")) return 222;
    takes(machine()->module);
    *m = (void *)text;
    return 0;
}
R cuModuleUnload(void *m) { return 0; }
R cuModuleGetFunction(void **f, void *m, const char *name) {
    for (unsigned i = 0; i < sizeof KERNELS / sizeof *KERNELS; i++)
        if (!strcmp(KERNELS[i], name)) {
            *f = (void *)(KERNELS + i);
            return 0;
        }
    return 500;
}
R cuLaunchKernel(const char *const *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned sh, void *st,
    void **a, void **extra) {
    ALIVE;
    if (!gx || gy != 1 || gz != 1 || bx != 256) return 1;
    struct op *o = op_new(KERNEL, STREAM(st));
    o->kernel = *f;
    o->generation = gx;
    const char *bytes = ARGUMENTS[f - KERNELS];
    for (int i = 0; bytes[i]; i++)
        if (bytes[i] == '8') o->v[i] = *(uint64_t *)a[i];
        else o->v[i] = *(uint32_t *)a[i];
    if (!strcmp(*f, "residual") && (o->v[3] < 64 || o->v[5] < 64)) {
        free(o);
        return 1;
    }
    queue(o);
    return 0;
}
