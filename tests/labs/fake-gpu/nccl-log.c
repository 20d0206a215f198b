// What NCCL says: NCCL_DEBUG_FILE in the words and the order of its version, and NCCL_TOPO_DUMP_FILE. The words are those of src/init.cc,
// src/transport/{p2p,nvls,generic}.cc, src/graph/{rings,tuning}.cc and src/enqueue.cc at the tags of 2.21.5, 2.22.3, 2.27.3 and 2.30.3.
//
// FAKE_NCCL_LOG and FAKE_NCCL_TOPOLOGY: files that are said instead. FAKE_NICS: how many adapters it sees (0, then sockets).

static FILE *log_file;
static int log_on, log_given;
static char host_name[64];

static void copy_file(const char *from, const char *to) {
    FILE *in = fopen(from, "r"), *out = fopen(to, "w");
    if (in && out)
        for (int c; (c = fgetc(in)) != EOF;) fputc(c, out);
    if (in) fclose(in);
    if (out) fclose(out);
}
// Once a process: what the environment becomes later is not looked at.
static void log_open(void) {
    static int known;
    if (known++) return;
    const char *level = getenv("NCCL_DEBUG"), *path = getenv("NCCL_DEBUG_FILE"), *given = getenv("FAKE_NCCL_LOG");
    gethostname(host_name, sizeof host_name - 1);
    if (!level || strcasecmp(level, "INFO") && strcasecmp(level, "TRACE") && strcasecmp(level, "WARN") && strcasecmp(level, "VERSION"))
        return;
    char name[512], *d = name;
    if (path) {
        for (; *path && d < name + 400; path++) {
            if (*path == '%' && path[1] == 'h') {
                d += sprintf(d, "%s", host_name);
                path++;
            } else if (*path == '%' && path[1] == 'p') {
                d += sprintf(d, "%d", (int)getpid());
                path++;
            } else *d++ = *path;
        }
        *d = 0;
        if (given) {
            copy_file(given, name);
            log_given = 1;
            return;
        }
        log_file = fopen(name, "w");
    } else if (!given) log_file = stdout;
    if (log_file) setvbuf(log_file, 0, _IOLBF, 0);
    log_on = log_file && (!strcasecmp(level, "INFO") || !strcasecmp(level, "TRACE"));
}
static int subsystem(const char *name) {
    const char *s = getenv("NCCL_DEBUG_SUBSYS"), *at;
    if (!s) s = "INIT,BOOTSTRAP,ENV"; // its default
    int not = *s == '^', has = 0;
    for (at = s + not; (at = strcasestr(at, name)); at++)
        if ((at == s + not || at[-1] == ',') && (!at[strlen(name)] || at[strlen(name)] == ',')) has = 1;
    return strcasestr(s, "ALL") ? 1 : has != not;
}
static void say(struct comm *c, const char *of, const char *text, ...) {
    if (!log_on || !subsystem(of)) return;
    char line[2048];
    va_list v;
    va_start(v, text);
    vsnprintf(line, sizeof line, text, v);
    va_end(v);
    fprintf(log_file, "%s:%d:%d [%d] NCCL INFO %s\n", host_name, (int)getpid(), (int)syscall(SYS_gettid), c->gpu, line);
}
static int nvls_in(const struct comm *c) { return machine()->nvls && c->n / (c->nodes ? c->nodes : 1) > 2; }
// NVLink from node to node, unless NCCL falls back to the network without a word.
static int many_nodes(void) { return machine()->fabric == 2 && !fault("no-mnnvl"); }
static int mnnvl(const struct comm *c) { return many_nodes() && c->nodes > 1; }
static const char *by(const struct comm *c, const struct peer *a, const struct peer *b) {
    static char text[64];
    if (a->place != b->place && !mnnvl(c)) {
        const char *n = getenv("FAKE_NICS");
        int nics = n ? atoi(n) : 0;
        if (nics) snprintf(text, sizeof text, "NET/IB/%d/GDRDMA", a->gpu % nics);
        else return "NET/Socket/0";
        return text;
    }
    if (mnnvl(c)) return "P2P/MNNVL";
    // Bridges of two GPUs: what goes over PCIe through the host's memory is neither peer to peer nor fast.
    if (machine()->pairs && a->gpu / 2 != b->gpu / 2) return "SHM/direct/direct";
    return "P2P/CUMEM";
}
static int prev_of(const struct comm *c, int r) { return (r + c->n - 1) % c->n; }
static int next_of(const struct comm *c, int r) { return (r + 1) % c->n; }
static void log_channels(struct comm *c) {
    for (int k = 0; c->n > 1 && k < machine()->channels; k++) {
        const struct peer *me = c->peers + c->rank, *to = c->peers + next_of(c, c->rank), *from = c->peers + prev_of(c, c->rank);
        const char *how = by(c, me, to);
        if (!strncmp(by(c, from, me), "NET", 3))
            say(c, "INIT", "Channel %02d/0 : %d[%d] -> %d[%d] [receive] via %s", k, from->rank, from->gpu, me->rank, me->gpu,
                by(c, from, me));
        how = by(c, me, to);
        say(c, "INIT", "Channel %02d/0 : %d[%d] -> %d[%d] %svia %s", k, me->rank, me->gpu, to->rank, to->gpu,
            strncmp(how, "NET", 3) ? "" : "[send] ", how);
    }
    if (version() >= 22700) say(c, "INIT", "Connected all rings, use ring PXN 0 GDR 1");
    else say(c, "INIT", "Connected all rings");
    if (version() < 22200) {
        for (int k = 0; k < machine()->channels && c->rank; k++)
            say(c, "INIT", "Channel %02d/0 : %d[%d] -> %d[%d] via %s", k, c->rank, c->gpu, prev_of(c, c->rank),
                c->peers[prev_of(c, c->rank)].gpu, by(c, c->peers + c->rank, c->peers + prev_of(c, c->rank)));
        say(c, "INIT", "Connected all trees");
    }
    if (nvls_in(c))
        say(c, "INIT",
            version() < 22200   ? "NVLS comm %p headRank %d nHeads %d buffSize %zu memSize %zu nvlsPerRankSize %zu nvlsTotalSize %zu"
            : version() < 22700 ? "NVLS comm %p headRank %d nHeads %d buffSize %zu nvlsPerRankSize %zu nvlsTotalSize %zu"
                                : "NVLS comm %p headRank %d nHeads %d nvlsRanks 8 buffSize %zu nvlsPerRankSize %zu nvlsTotalSize %zu",
            c, c->rank, c->n, 1048576ul, 2097152ul, 201326592ul, 1610612736ul);
}

// Predictions, by the model of src/graph/tuning.cc for one node, from what the machine reaches.
static const char *const ALGORITHMS[] = {"Tree", "Ring", "CollNetDirect", "CollNetChain", "NVLS", "NVLSTree", "PAT"};
static void predicted(const struct comm *c, enum kind kind, int a, int p, double *us, double *rate) {
    const struct machine *m = machine();
    double n = c->n, ring = m->all_gather < m->all_reduce ? m->all_gather : m->all_reduce,
           steps = kind == ALL_REDUCE  ? 2 * (n - 1)
                   : kind == BROADCAST ? n
                                       : n - 1;
    static const double base[] = {6.6, 14, 8.4}, hop[] = {0.6, 1.9, 3.4}, part[] = {0.2, 0.85, 1};
    *us = *rate = 0;
    if (c->nodes > 1 && !many_nodes() && m->net * n / c->nodes < ring) ring = m->net * n / c->nodes;
    if (a == 1) {
        *us = base[p] + steps * hop[p];
        *rate = ring * part[p] * n / steps;
    } else if (a == 0 && kind == ALL_REDUCE) {
        *us = 2 * (base[p] + (n - 1) * hop[p]);
        *rate = ring * part[p] * 0.7 * 0.5;
    } else if (a == 4 && p == 2 && nvls_in(c) && c->nodes == 1 && kind != BROADCAST) {
        *us = kind == ALL_REDUCE ? 25 : 23;
        *rate = kind == ALL_REDUCE ? m->all_reduce * n / (2 * (n - 1)) : m->all_gather * 0.9;
    } else if (a == 5 && p == 2 && nvls_in(c) && c->nodes > 1 && kind == ALL_REDUCE) {
        *us = 45;
        *rate = ring * 0.6;
    }
}
static void log_table(struct comm *c) {
    char line[1024];
    int algorithms = version() < 22300 ? 6 : 7;
    static const enum kind ORDER[] = {BROADCAST, BROADCAST, ALL_GATHER, REDUCE_SCATTER, ALL_REDUCE};
    static const char *const NAMES[] = {"Broadcast", "Reduce", "AllGather", "ReduceScatter", "AllReduce"}, *const PROTOCOLS[] = {
                                                                                                               "LL", "LL128", "Simple"};
    for (int block = 0; block < algorithms; block += 3) {
        int o = sprintf(line, "  Algorithm   |");
        for (int a = block; a < block + 3 && a < algorithms; a++) o += sprintf(line + o, " %14s   %14s   %14s |", "", ALGORITHMS[a], "");
        say(c, "TUNING", "%s", line);
        o = sprintf(line, "  Protocol    |");
        for (int p = 0; p < 9; p++) o += sprintf(line + o, " %14s |", PROTOCOLS[p % 3]);
        say(c, "TUNING", "%s", line);
        o = sprintf(line, " Max NThreads |");
        for (int a = block; a < block + 3 && a < algorithms; a++)
            for (int p = 0; p < 3; p++) o += sprintf(line + o, " %14d |", p == 1 ? 640 : 512);
        say(c, "TUNING", "%s", line);
        for (int k = 0; k < 5; k++) {
            o = sprintf(line, "%13s |", NAMES[k]);
            for (int a = block; a < block + 3 && a < algorithms; a++)
                for (int p = 0; p < 3; p++) {
                    double us, rate;
                    predicted(c, ORDER[k], a, p, &us, &rate);
                    o += sprintf(line + o, "%8.1f/%6.1f |", us, rate);
                }
            say(c, "TUNING", "%s", line);
        }
    }
}
static void log_choice(struct comm *c, const struct work *w) {
    static const char *const A[] = {"TREE", "RING", "COLLNET_DIRECT", "COLLNET_CHAIN", "NVLS", "NVLS_TREE", "PAT"}, *const P[] = {"LL",
                                                                                                                        "LL128", "SIMPLE"};
    if (c->rank || c->n < 2 || !log_on) return;
    double best = 1e30;
    int ba = 1, bp = 2;
    uint64_t bytes = 4 * w->count * (w->kind == ALL_GATHER || w->kind == REDUCE_SCATTER ? c->n : 1);
    for (int a = 0; a < 7; a++)
        for (int p = 0; p < 3; p++) {
            double us, rate;
            predicted(c, w->kind, a, p, &us, &rate);
            double t = us + bytes / (rate * 1e3);
            if (rate > 0 && t < best) {
                best = t;
                ba = a;
                bp = p;
            }
        }
    const char *name = OPERATIONS[w->kind];
    if (version() < 22300) say(c, "TUNING", "%ld Bytes -> Algo %d proto %d time %f", (long)bytes, ba, bp, best);
    else if (version() < 22400) say(c, "TUNING", "%s: %ld Bytes -> Algo %d proto %d time %f", name, (long)bytes, ba, bp, best);
    else
        say(c, "TUNING", "%s: %ld Bytes -> Algo %s proto %s channel{Lo..Hi}={%d..%d}", name, 4 * (long)w->count, A[ba], P[bp], 0,
            machine()->channels - 1);
}

static void log_begin(struct comm *c, const char *function) {
    static int once;
    if (once++) return;
    for (char **e = environ; *e; e++)
        if (!strncmp(*e, "NCCL_", 5) && strncmp(*e, "NCCL_DEBUG", 10) && strncmp(*e, "NCCL_TOPO_DUMP", 14))
            say(c, "ENV", "%.*s set by environment to %s", (int)strcspn(*e, "="), *e, strchr(*e, '=') + 1);
    say(c, "INIT", "Bootstrap: Using eth0:10.0.0.1<0>");
    say(c, "INIT", "cudaDriverVersion %d", machine()->cuda);
    if (!c->rank)
        say(c, "INIT", "NCCL version %d.%d.%d+cuda%d.%d", version() / 10000, version() / 100 % 100, version() % 100, machine()->cuda / 1000,
            machine()->cuda % 1000 / 10);
    say(c, "INIT",
        version() < 22700 ? "NET/Plugin: Could not find: libnccl-net.so. Using internal net plugin."
                          : "NET/Plugin: Could not find: libnccl-net.so.");
    const char *n = getenv("FAKE_NICS");
    int nics = n ? atoi(n) : 0, o = 0;
    char list[1024] = "";
    for (int i = 0; i < nics && o < 900; i++) o += sprintf(list + o, " [%d]mlx5_%d:1/IB", i, i);
    if (nics) say(c, "INIT", "NET/IB : Using%s [RO]; OOB eth0:10.0.0.1<0>", list);
    else {
        say(c, "INIT", "NET/IB : No device found.");
        say(c, "INIT", "NET/Socket : Using [0]eth0:10.0.0.1<0>");
    }
    say(c, "INIT", "Using network %s", nics ? "IB" : "Socket");
    for (int i = 0; i < nics; i++) say(c, "NET", "NET/IB : GPU Direct RDMA Enabled for HCA %d 'mlx5_%d'", i, i);
}

// Diagnostics of 2.31 and later, as its documentation has them: on the standard output, each line in one piece.
static int asked(const char *name) {
    const char *v = getenv(name);
    return v && atoi(v);
}
static void log_diagnoses(struct comm *c) {
    if (version() < 23100 || c->rank) return;
    char at[80], host[48] = "";
    gethostname(host, sizeof host - 1);
    snprintf(at, sizeof at, "%s:%d NCCL DIAG", host, getpid());
    int pairs = c->nodes == 1 ? c->n * (c->n - 1) : 0;
    if (asked("NCCL_RUN_DIAGNOSTICS")) {
        printf("%s === NCCL Diagnostics ===\n", at);
        if (pairs && fault("nccl-p2p")) printf("%s [INFO] p2p: only %d/%d GPU-to-GPU peer accesses passed verification\n", at, pairs - 4, pairs);
        else if (pairs) printf("%s [OK]   p2p: verified P2P access in both directions between every GPU pair (%d peer accesses)\n", at, pairs);
        printf("%s NCCL diagnostics completed in 245.3 ms across %d ranks\n", at, c->n);
    }
    const char *ras = getenv("NCCL_RAS_ENABLE");
    if (asked("NCCL_RUN_RAS_DIAGNOSTICS") && !(ras && !atoi(ras))) {
        printf("%s === RAS Diagnostics ===\n", at);
        printf("%s [OK]   CUDA driver version: %d consistent across %d ranks in comm %p\n", at, machine()->cuda, c->n, (void *)c);
        if (fault("nccl-environment"))
            printf("%s [INFO] NCCL environment: 1 NCCL_* env var(s) differ across ranks in comm %p\n", at, (void *)c);
        printf("%s RAS diagnostics completed in 12.3 ms across %d RAS peers\n", at, c->n);
    }
}

#include "nccl-topology.c"

static void log_made(struct comm *c) {
    const struct peer *me = c->peers + c->rank;
    int local = 0, locals = 0;
    for (int r = 0; r < c->n; r++)
        if (c->peers[r].place == me->place) {
            if (r < c->rank) local++;
            locals++;
        }
    const char *f = version() < 22300 ? "ncclCommInitRank" : "ncclCommInitRankConfig";
    char head[256], who[32] = "";
    if (version() >= 23000) snprintf(who, sizeof who, "[Rank %d] ", c->rank);
    snprintf(head, sizeof head, "%s comm %p rank %d nranks %d cudaDev %d nvmlDev %d busId %lx commId 0x%llx", f, c, c->rank, c->n, me->gpu,
        me->gpu, (long)me->bus, (unsigned long long)c->id);
    say(c, "INIT", "%s%s - Init START", who, head);
    if (machine()->fabric && version() >= 22100)
        say(c, "INIT", "MNNVL busId 0x%lx fabric UUID %lx.%lx cliqueId 0x%x state 3 healthMask 0x0", (long)me->bus,
            machine()->fabric == 2 ? 0x6762323030ul : 0, machine()->fabric == 2 ? 0x6e766c3732ul : 0, machine()->fabric == 2 ? 32766 : 0);
    dump_topology(c);
    if (machine()->nvls && c->n / c->nodes > 2)
        say(c, "INIT",
            version() < 22700 || version() >= 23000 ? "NVLS multicast support is %savailable on dev %d"
                                                    : "NVLS multicast support is %savailable on dev %d (NVLS_NCHANNELS 16)",
            "", c->gpu);
    say(c, "INIT", "comm %p rank %d nRanks %d nNodes %d localRanks %d localRank %d MNNVL %d", c, c->rank, c->n, c->nodes, locals, local,
        mnnvl(c));
    char ring[512];
    int o = 0, wide = c->n > 100 ? 3 : c->n > 10 ? 2 : 1;
    for (int r = 0; r < c->n; r++) o += sprintf(ring + o, " %*d", wide, r);
    for (int k = 0; k < machine()->channels && !c->rank && c->n > 1; k++)
        say(c, "INIT", "Channel %02d/%02d :%s", k, machine()->channels, ring);
    say(c, "INIT", "P2P Chunksize set to 524288");
    if (version() < 22200 && c->n > 1) log_channels(c);
    if (!c->rank) log_table(c);
    say(c, "INIT", "%d coll channels, %d collnet channels, %d nvls channels, %d p2p channels, %d p2p channels per peer",
        machine()->channels, 0, nvls_in(c) ? 16 : 0, 32, machine()->links ? 32 : 2);
    say(c, "INIT", "%s - Init COMPLETE", head);
    log_diagnoses(c);
}
static void log_operation(struct comm *c, struct work *w) {
    if (w->kind != POINT) {
        if (!c->connected && version() >= 22200 && c->n > 1) log_channels(c);
        log_choice(c, w);
        return;
    }
    // Peers are connected when they are first used.
    for (int i = 0; i < w->parts; i++)
        if (!w->part[i].gets && w->part[i].peer != c->rank && !c->p2p[w->part[i].peer]++) {
            const struct peer *to = c->peers + w->part[i].peer;
            const char *how = by(c, c->peers + c->rank, to);
            say(c, "INIT", "Channel %02d/1 : %d[%d] -> %d[%d] %svia %s%s", 0, c->rank, c->gpu, to->rank, to->gpu,
                strncmp(how, "NET", 3) ? "" : "[send] ", how, strncmp(how, "NET", 3) ? "" : "/Shared");
        }
}
