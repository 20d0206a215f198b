// Time: everything sleeps until it would be done, and nothing spins.

typedef int64_t Time; // ns of CLOCK_MONOTONIC, which all processes of a machine share

static Time now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

// The host's clock, as it would be on a host that is not short of cores: a thread that has not blocked since it woke is as far as its time on a
// core, not as late as the others let it be. So what streams show does not depend on what else runs here.
static __thread struct {
    Time at, cpu;
    long blocked;
} host;
static Time cpu_time(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}
static long times_blocked(void) {
    struct rusage u;
    getrusage(RUSAGE_THREAD, &u);
    return u.ru_nvcsw;
}
static void host_is_at(Time at) {
    host.at = at;
    host.cpu = cpu_time();
    host.blocked = times_blocked();
}
static Time host_now(void) {
    Time real = now(), own = host.at + cpu_time() - host.cpu;
    if (!host.at || times_blocked() != host.blocked) {
        host_is_at(real);
        return real;
    }
    return own < real ? own : real;
}
static void sleep_until(Time at) {
    // The kernel may let a sleep last 50 us longer, which a driver that polls does not.
    static __thread int exact;
    if (!exact) {
        prctl(PR_SET_TIMERSLACK, 1000ul, 0, 0, 0);
        exact = 1;
    }
    if (at <= host_now()) return;
    struct timespec t = {at / 1000000000, at % 1000000000};
    if (at > now())
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, 0) == EINTR);
    host_is_at(at);
}
static void takes(double ms) {
    if (ms > 0) sleep_until(host_now() + (Time)(ms * 1e6));
}

// Splitmix64, as kernels.cu has it.
static inline uint64_t mix(uint64_t x) {
    x += 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

static double gauss(uint64_t x) {
    double sum = 0;
    for (int i = 0; i < 4; i++) sum += (double)((x = mix(x)) >> 40) / (1 << 24) - 0.5;
    return sum * 1.73;
}
static uint64_t seed_of(int gpu) {
    const char *s = getenv("FAKE_SEED");
    uint64_t id[2];
    uuid_of(gpu, (void *)id);
    return mix((s ? atoll(s) : 1) ^ id[0]) | 1;
}
// What a repetition differs by: 0.3 % from one to the next, and 0.5 % from one moment to another, which does not average out.
static double noise(int gpu, Time at) {
    static uint64_t state[32], moving[32];
    static Time moment[32];
    static double slow[32];
    gpu &= 31;
    if (!state[gpu]) {
        state[gpu] = seed_of(gpu);
        moving[gpu] = mix(state[gpu]);
    }
    if (at / 20000000 != moment[gpu]) {
        moment[gpu] = at / 20000000;
        slow[gpu] = gauss(moving[gpu] = mix(moving[gpu]));
    }
    return 1 + 0.003 * gauss(state[gpu] = mix(state[gpu])) + 0.005 * slow[gpu];
}
// No two chips are alike: 0.6 %.
static double chip(int gpu) { return 1 + 0.006 * gauss(seed_of(gpu) ^ 0x63686970); }

// What the driver of a node does for one process at a time. FAKE_NODE tells nodes on one host apart.
static void takes_alone(double ms) {
    if (ms <= 0) return;
    const char *node = getenv("FAKE_NODE");
    char path[256];
    snprintf(path, sizeof path, "/tmp/fake-gpu-%d%s%.64s.lock", (int)getuid(), node ? "-" : "", node ? node : "");
    int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0)
        while (flock(fd, LOCK_EX) && errno == EINTR);
    takes(ms);
    if (fd >= 0) close(fd);
}
