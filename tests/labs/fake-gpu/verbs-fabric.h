// What the processes of one machine share: adapters' lanes, keys of registered memory, and ends of connections, in one file that all
// of them map. Counters of one writer each; what is made and freed goes under a lock on the file.
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { LANES = 128, KEYS = 4096, ENDS = 1024, ROOM = 512, DOORS = 256 };

// An adapter's port. `out` and `in` are the moments (ns) until which what was asked of it keeps it busy.
struct lane { char name[96]; uint16_t lid; _Atomic int down; uint64_t gid[2]; _Atomic int64_t out, in; };
// Registered memory: at `addr` for its users, at `real` in the memory of its process.
struct key { _Atomic uint32_t value; int pid; uint64_t addr, length, real; int access; };
struct room { uint64_t id, addr; uint32_t bytes, lkey; };
struct came { uint64_t id; int64_t at; uint32_t bytes; int status; };
// One end of a connection. The owner counts `posted` and `polled`, its peer `taken` and `arrived`.
struct end {
    _Atomic uint32_t number, peer;
    int pid, lane, door;
    _Atomic uint32_t posted, taken, arrived, polled;
    struct room rooms[ROOM];
    struct came came[ROOM];
};
// What a process sleeps at while it waits for others: they ring when something came.
struct door { _Atomic int pid; _Atomic uint32_t rung, waiting; };
struct fabric {
    _Atomic uint32_t next;
    struct lane lanes[LANES];
    struct key keys[KEYS];
    struct end ends[ENDS];
    struct door doors[DOORS];
};

static struct fabric *fabric;
static int fabric_fd = -1;

static int64_t now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ll + t.tv_nsec; }

static void pause_ns(int64_t ns) {
    struct timespec t = {ns / 1000000000, ns % 1000000000};
    if (ns > 0) nanosleep(&t, 0);
}

// Processes that share FAKE_FABRIC (a folder) reach each other; `enter` gives each run its own.
static int fabric_open(void) {
    char path[512];
    const char *dir = getenv("FAKE_FABRIC");
    if (fabric) return 0;
    if (dir) snprintf(path, sizeof path, "%s/stand-in-fabric", dir);
    else snprintf(path, sizeof path, "/dev/shm/stand-in-fabric-%u", getuid());
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || ftruncate(fd, sizeof *fabric)) { if (fd >= 0) close(fd); return -1; }
    void *at = mmap(0, sizeof *fabric, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) { close(fd); return -1; }
    fabric = at;
    fabric_fd = fd;
    return 0;
}

static void fabric_lock(void) { while (flock(fabric_fd, LOCK_EX) && errno == EINTR); }
static void fabric_unlock(void) { flock(fabric_fd, LOCK_UN); }
static int gone(int pid) { return kill(pid, 0) && errno == ESRCH; }

static int lane_of(const char *name) {
    int at = -1;
    fabric_lock();
    for (int i = 0; i < LANES && at < 0; i++) {
        if (!*fabric->lanes[i].name) snprintf(fabric->lanes[i].name, sizeof fabric->lanes[i].name, "%s", name);
        if (!strcmp(fabric->lanes[i].name, name)) at = i;
    }
    fabric_unlock();
    return at;
}

static struct key *key_of(uint32_t value) {
    struct key *k = &fabric->keys[value % KEYS];
    return value && k->value == value ? k : 0;
}

static struct key *key_new(uint64_t addr, uint64_t length, uint64_t real, int access) {
    struct key *k = 0;
    fabric_lock();
    for (int i = 0; i < KEYS && !k; i++)
        if (!fabric->keys[i].value || gone(fabric->keys[i].pid)) {
            k = &fabric->keys[i];
            k->pid = getpid(), k->addr = addr, k->length = length, k->real = real, k->access = access;
            // New for each registration: an old key to the same place is no key.
            k->value = (++fabric->next & 0xfffff) * KEYS + i;
            if (!k->value) k->value = KEYS + i;
        }
    fabric_unlock();
    if (!k) errno = ENOMEM;
    return k;
}

static void futex(_Atomic uint32_t *at, int op, uint32_t value, int64_t ns) {
    struct timespec t = {ns / 1000000000, ns % 1000000000};
    syscall(SYS_futex, at, op, value, &t, 0, 0);
}

// The last is for all that find no other: they are woken more often than need be.
static int own_door(void) {
    static int own = -1;
    if (own >= 0) return own;
    fabric_lock();
    for (own = 0; own < DOORS - 1 && fabric->doors[own].pid && !gone(fabric->doors[own].pid); own++) ;
    fabric->doors[own].pid = getpid();
    fabric->doors[own].waiting = 0;
    fabric_unlock();
    return own;
}

static void ring(int door) {
    struct door *d = &fabric->doors[door];
    d->rung++;
    if (d->waiting) futex(&d->rung, FUTEX_WAKE, 64, 0);
}

// Until somebody rings after `rung` was read, or so long.
static void wait_at_door(uint32_t rung, int64_t ns) {
    struct door *d = &fabric->doors[own_door()];
    d->waiting++;
    futex(&d->rung, FUTEX_WAIT, rung, ns);
    d->waiting--;
}

static struct end *end_of(uint32_t number) {
    struct end *e = &fabric->ends[number % ENDS];
    return number && e->number == number ? e : 0;
}

static struct end *end_new(int lane) {
    struct end *e = 0;
    int door = own_door();
    fabric_lock();
    for (int i = 0; i < ENDS && !e; i++)
        if (!fabric->ends[i].number || gone(fabric->ends[i].pid)) {
            e = &fabric->ends[i];
            e->number = 0;
            e->peer = e->posted = e->taken = e->arrived = e->polled = 0;
            e->pid = getpid(), e->lane = lane, e->door = door;
            e->number = (1 + ++fabric->next % 0x3fff) * ENDS + i; // 24 bits
        }
    fabric_unlock();
    if (!e) errno = ENOMEM;
    return e;
}

// The machine's file of a device, without its line feed; "" where there is none.
static char *sys_read(const char *device, const char *file, char *to, size_t n) {
    char path[512];
    snprintf(path, sizeof path, "/sys/class/infiniband/%s/%s", device, file);
    FILE *f = fopen(path, "re");
    *to = 0;
    if (!f) return to;
    if (!fgets(to, n, f)) *to = 0;
    fclose(f);
    to[strcspn(to, "\n")] = 0;
    return to;
}

// A counter of the port moves as the adapter's own would, for those who read it before and after.
static void sys_count(const char *device, const char *counter, long by) {
    char file[128], text[64], path[512];
    snprintf(file, sizeof file, "ports/1/%s", counter);
    long was = atol(sys_read(device, file, text, sizeof text));
    snprintf(path, sizeof path, "/sys/class/infiniband/%s/%s", device, file);
    FILE *f = fopen(path, "we");
    if (f) { fprintf(f, "%ld\n", was + by); fclose(f); }
}

static uint64_t sys_guid(const char *device, const char *file) {
    char text[64];
    unsigned a, b, c, d;
    if (sscanf(sys_read(device, file, text, sizeof text), "%x:%x:%x:%x", &a, &b, &c, &d) != 4) return 0;
    return __builtin_bswap64((uint64_t)a << 48 | (uint64_t)b << 32 | (uint64_t)c << 16 | d);
}

static int sys_gid(const char *device, int index, uint64_t gid[2]) {
    char file[64], text[64];
    unsigned w[8];
    snprintf(file, sizeof file, "ports/1/gids/%d", index);
    if (sscanf(sys_read(device, file, text, sizeof text), "%x:%x:%x:%x:%x:%x:%x:%x", w, w + 1, w + 2, w + 3, w + 4, w + 5, w + 6, w + 7) != 8) return -1;
    for (int i = 0; i < 8; i++) ((uint8_t *)gid)[2 * i] = w[i] >> 8, ((uint8_t *)gid)[2 * i + 1] = w[i];
    return 0;
}
