// What an operation of NCCL gives, and how long it takes.

// What a range of the sum over ranks holds.
static void combine(struct seg *s, int n, uint64_t at, struct list *out) {
    uint64_t len = s->n, count = 0, low = ~0ull;
    int ranks = 1, plain = 1;
    float sum = 0;
    for (int i = 0; i < n; i++) {
        ranks &= s[i].kind == RANKS && s[i].p[0] == s->p[0] && s[i].from == s->from;
        plain &= s[i].kind == CONST;
        if (s[i].kind == RANKS) {
            count += s[i].p[2];
            if (s[i].p[1] < low) low = s[i].p[1];
        }
    }
    // Each rank once, and no gap.
    for (uint64_t r = low; ranks && r < low + count; r++) {
        int has = 0;
        for (int i = 0; i < n; i++) has += r >= s[i].p[1] && r < s[i].p[1] + s[i].p[2];
        ranks = has == 1;
    }
    struct seg got = {at, len, PRODUCT};
    if (n == 1) {
        got = *s;
        got.at = at;
    } else if (ranks) got = (struct seg){at, len, RANKS, s->from, {s->p[0], low, count}};
    else if (plain) {
        for (int i = 0; i < n; i++) sum += float_of(s[i].p[0]);
        got = (struct seg){at, len, CONST, .p = {bits_of(sum)}};
    } else if (len <= SMALL) {
        got = (struct seg){at, len, RAW, .raw = raw_new(0, len)};
        for (uint64_t b = 0; b + 4 <= len; b += 4) {
            float x = 0;
            for (int i = 0; i < n; i++) x += float_of(word_of(s + i, s[i].from + b));
            memcpy(got.raw->bytes + b, &x, 4);
        }
    } else {
        // Bits that follow from the inputs, and that no check takes for right.
        for (int i = 0; i < n; i++) {
            struct list one = {0};
            struct seg x = s[i];
            x.at = 0;
            push(&one, x);
            got.p[0] = mix(got.p[0]) ^ hash_of(&one, 0, len);
            clear(&one);
        }
    }
    push(out, got);
}
static void sum_of(struct list *const *in, int n, uint64_t from, uint64_t len, struct list *out) {
    struct seg s[MOST];
    for (uint64_t at = 0, piece; at < len; at += piece) {
        piece = len - at;
        for (int i = 0; i < n; i++)
            for (int k = 0; k < in[i]->n; k++) {
                struct seg x = in[i]->v[k];
                if (from + at < x.at || from + at >= x.at + x.n) continue;
                x.from += from + at - x.at;
                x.n -= from + at - x.at;
                if (x.n < piece) piece = x.n;
                s[i] = x;
            }
        for (int i = 0; i < n; i++) s[i].n = piece;
        combine(s, n, at, out);
    }
}

static int one_fabric(const struct server *v) { return many_nodes(); }
static double smallest(const struct server *v, double (*share)(int)) {
    double s = 1;
    for (int i = 0; i < v->n; i++) {
        double x = share(v->w.peers[i].gpu);
        if (x < s) s = x;
    }
    return s;
}
static double links_share(int g) { return machine()->links ? (double)links_up(g) / machine()->links : 1; }
static double pcie_part(int g) { return 1.0 / pcie_share(g); }
// GB/s of the bus.
static double bus_rate(const struct server *v, enum kind kind) {
    const struct machine *m = machine();
    int n = v->n, nodes = v->w.nodes, nvls = m->nvls && n / nodes > 2 && kind == ALL_REDUCE;
    // Shares of eight by fewer: 8 GiB on H200 (stas00/ml-engineering network).
    static const double fewer[] = {1, 1, 1, 0.763, 0.763, 0.87, 0.915, 0.965};
    double rate = kind == ALL_REDUCE ? nvls       ? m->all_reduce * (m->gpus == 8 && n < 8 ? fewer[n] : 1)
                                       : m->links ? (m->all_gather < m->all_reduce ? m->all_gather : m->all_reduce)
                                                  : m->all_reduce
                                     : m->all_gather;
    int pair = m->pairs && n == 2 && nodes == 1 && v->w.peers[0].gpu / 2 == v->w.peers[1].gpu / 2;
    if (pair) rate = 0.85 * m->peer;
    rate *= m->pairs && !pair ? smallest(v, pcie_part) : smallest(v, links_share);
    if (nodes > 1 && !one_fabric(v)) {
        double net = m->net * (n / nodes) * smallest(v, pcie_part);
        if (net < rate) rate = net;
    }
    return rate;
}
static double curve(double latency_us, double ns) { return latency_us * 1000 + ns + 0.7 * root(latency_us * 1000 * ns); }
static double collective_ns(const struct server *v, enum kind kind, uint64_t count) {
    const struct machine *m = machine();
    double n = v->n, bytes = 4.0 * count * (kind == ALL_GATHER || kind == REDUCE_SCATTER ? n : 1);
    double factor = kind == ALL_REDUCE ? 2 * (n - 1) / n : kind == BROADCAST ? 1 : (n - 1) / n;
    double latency = m->latency * (kind == ALL_REDUCE ? 1 : 0.85);
    for (int k = 1; k < v->w.nodes; k *= 2) latency += 10;
    if (v->n == 1) return curve(4, 2 * bytes / m->copy);
    return curve(latency, bytes * factor / bus_rate(v, kind));
}
static double point_ns(const struct server *v, int rank, const struct asked *a) {
    const struct machine *m = machine();
    double way[2] = {0};
    int peers = 0;
    for (int i = 0; i < a->r.parts; i++)
        if (!a->part[i].gets && a->part[i].peer != rank) peers++;
    for (int i = 0; i < a->r.parts; i++) {
        const struct peer *x = v->w.peers + rank, *y = v->w.peers + a->part[i].peer;
        double rate = x == y                                   ? m->copy / 2
                      : x->place != y->place && !one_fabric(v) ? m->net / (pcie_share(x->gpu) > pcie_share(y->gpu) ? 4 : 1)
                      : x->gpu == y->gpu                       ? m->all_to_all
                                                               : between(x->gpu, y->gpu);
        if (x != y && peers > 1 && m->all_to_all < rate) rate = m->all_to_all;
        way[a->part[i].gets] += a->part[i].n / rate;
    }
    return curve(0.75 * m->latency, way[0] > way[1] ? way[0] : way[1]);
}
