// The kernels of src/sys/cuda/kernels.cu, as operations on descriptions.

static int wide(unsigned type) { return type < TYPES ? SIZES[type] : 1; }
// Counters at `at` go up as by atomicAdd.
static void add(uint64_t at, uint64_t n) {
    uint64_t v;
    read_bytes(at, 8, &v);
    v += n;
    write_bytes(at, 8, &v);
}

// A product's bits follow from its inputs, its shape and its algorithm: alike on all GPUs of a model.
static uint64_t product_of(uint64_t a, uint64_t b, uint64_t m, uint64_t n, uint64_t k, int in, int out, int by, int algorithm) {
    struct list x = {0}, y = {0};
    read_list(a, m * k * wide(in), &x);
    read_list(b, n * k * wide(in), &y);
    uint64_t h = mix(hash_of(&x, 0, m * k * wide(in))) ^ hash_of(&y, 0, n * k * wide(in));
    clear(&x);
    clear(&y);
    uint64_t shape[] = {m, n, k, in, out, by, algorithm};
    for (int i = 0; i < 7; i++) h = mix(h ^ shape[i]);
    return h;
}
// What rounding makes of the largest of some hundred samples, as a share of the products' norm; estimates.
static const float ROUNDING[TYPES] = {2e-14f, 4e-6f, 0.011f, 0.0014f, 0.012f, 0.0016f};

// As the kernel does: sampled elements. One that is not what the product gave is wrong by a whole.
static void residual(uint64_t *v, unsigned blocks) {
    uint64_t m = v[3], n = v[4], k = v[5], size = wide(v[7]), hash[6];
    float rounding[6], worst = 0;
    struct list c = {0};
    read_list(v[2], m * n * size, &c);
    for (int i = 0; i < 6; i++) {
        int by = v[6] == F32 && i >= 3 ? TF32 : v[6];
        hash[i] = product_of(v[0], v[1], m, n, k, v[6], v[7], by, i % 3 + 1);
        rounding[i] = ROUNDING[by];
    }
    for (unsigned b = 0; b < blocks; b++) {
        uint64_t pick = mix(v[8] + b), at = ((pick & 0xffffffffull) % m + (pick >> 32) % n * m) * size;
        float error = 1;
        for (int i = 0; i < c.n; i++) {
            struct seg *s = c.v + i;
            if (at < s->at || at >= s->at + s->n) continue;
            for (int j = 0; j < 6; j++) {
                struct seg want = {0, m * n * size, PRODUCT, .p = {hash[j]}};
                int is = s->kind == PRODUCT ? s->p[0] == hash[j] && s->from == s->at
                                            : word_of(s, (s->from + at - s->at) & ~3ull) == word_of(&want, at & ~3ull);
                if (is && rounding[j] < error) error = rounding[j];
            }
        }
        if (error > worst) worst = error;
    }
    clear(&c);
    uint32_t is;
    read_bytes(v[9], 4, &is);
    if (bits_of(worst) > is) {
        is = bits_of(worst);
        write_bytes(v[9], 4, &is);
    }
}

static const char *const KERNELS[] = {"fill_normal", "residual", "digest", "stream_read", "stream_write", "stream_copy", "stream_triad",
    "pattern_fill", "pattern_check", "ranks_fill", "ranks_check"};
// Bytes of each argument.
static const char *const ARGUMENTS[] = {"8884", "8888884488", "888", "888", "848", "888", "88848", "8884", "888488", "8888", "8888888"};

static void do_kernel(struct op *o) {
    const struct machine *m = machine();
    const char *n = o->kernel;
    uint64_t *v = o->v;
    struct stream *s = o->s;
    struct list l = {0};
    double bytes = 0, rate = m->write, slow = share_of("slow-memory", s->gpu, 0.8);
    if (!strcmp(n, "fill_normal")) {
        bytes = v[1] * wide(v[3]);
        rate = m->write / 2;
        write_rule(v[0], (struct seg){0, v[1] * wide(v[3]), NORMAL, .p = {v[2], v[3]}});
    } else if (!strcmp(n, "residual")) {
        bytes = 0.0002 * 1e9 * m->write;
        residual(v, o->generation);
    } else if (!strcmp(n, "digest")) {
        bytes = 4 * v[1];
        rate = m->read;
        read_list(v[0], 4 * v[1], &l);
        add(v[2], mix(hash_of(&l, 0, 4 * v[1])));
    } else if (!strcmp(n, "stream_read")) {
        bytes = 16 * v[2];
        rate = m->read;
        must(v[0], 16 * v[2], n);
    } else if (!strcmp(n, "stream_write")) {
        bytes = 16 * v[2];
        write_rule(v[0], (struct seg){0, 16 * v[2], CONST, .p = {(uint32_t)v[1]}});
    } else if (!strcmp(n, "stream_copy")) {
        bytes = 2.0 * 16 * v[2];
        rate = m->copy;
        read_list(v[0], 16 * v[2], &l);
        write_list(v[1], 16 * v[2], &l);
    } else if (!strcmp(n, "stream_triad")) {
        bytes = 3.0 * 16 * v[4];
        rate = m->triad;
        struct list b = {0};
        read_list(v[0], 16 * v[4], &l);
        read_list(v[1], 16 * v[4], &b);
        int plain = l.n == 1 && b.n == 1 && l.v->kind == CONST && b.v->kind == CONST;
        float sum = plain ? (float)((double)float_of(v[3]) * float_of(b.v->p[0]) + float_of(l.v->p[0])) : 0;
        // Of anything else: bits that follow from the inputs, and that no check takes for right.
        uint64_t h = mix(hash_of(&l, 0, 16 * v[4])) ^ hash_of(&b, 0, 16 * v[4]) ^ v[3];
        write_rule(v[2], plain ? (struct seg){0, 16 * v[4], CONST, .p = {bits_of(sum)}} : (struct seg){0, 16 * v[4], PRODUCT, .p = {h}});
        clear(&b);
    } else if (!strcmp(n, "pattern_fill")) {
        bytes = 4 * v[1];
        write_rule(v[0], (struct seg){0, 4 * v[1], PATTERN, .p = {v[2], (uint32_t)v[3]}});
    } else if (!strcmp(n, "pattern_check")) {
        bytes = 4 * v[1];
        rate = m->read;
        uint64_t first = ~0ull, was;
        read_list(v[0], 4 * v[1], &l);
        uint64_t wrong = differ(&l, 0, 4 * v[1], (struct seg){0, 4 * v[1], PATTERN, .p = {v[2], (uint32_t)v[3]}}, 0, &first);
        if (wrong) {
            add(v[4], wrong);
            read_bytes(v[5], 8, &was);
            if (first < was) write_bytes(v[5], 8, &first);
        }
    } else if (!strcmp(n, "ranks_fill")) {
        bytes = 4 * v[1];
        write_rule(v[0], (struct seg){0, 4 * v[1], RANKS, .p = {v[2], v[3], 1}});
    } else if (!strcmp(n, "ranks_check")) {
        bytes = 4 * v[1];
        rate = m->read / (1 + v[5] / 4.0);
        read_list(v[0], 4 * v[1], &l);
        uint64_t wrong = differ(&l, 0, 4 * v[1], (struct seg){0, 4 * v[1], RANKS, 4 * v[2], .p = {v[3], v[4], v[5]}}, 1 / 1024.0, 0);
        if (wrong) add(v[6], wrong);
    }
    clear(&l);
    Time begin = run_on(s, COMPUTE, o->queued, bytes / (rate * slow) + 2000);
    warm(s->gpu, begin, begin + (s->t - begin) / 2);
}
