// cuBLASLt: opaque things are counted, shapes kept. A product is a hash of its inputs' descriptions, and takes its operations over the rate.

typedef int R;
struct description {
    int transpose, compute;
};
struct layout {
    int type;
    uint64_t rows, cols;
};
static char warm_kernels[TYPES][4];

R cublasLtCreate(void **h) {
    ALIVE;
    takes(machine()->blas);
    *h = malloc(1);
    return 0;
}
R cublasLtDestroy(void *h) {
    free(h);
    return 0;
}
size_t cublasLtGetVersion(void) { return machine()->cuda >= 13000 ? 130002 : 120803; }
R cublasLtMatmulDescCreate(void **d, int compute, int scale) {
    struct description *x = calloc(1, sizeof *x);
    x->compute = compute;
    *d = x;
    return compute >= 64 && scale <= 1 ? 0 : 7;
}
R cublasLtMatmulDescDestroy(void *d) {
    free(d);
    return 0;
}
R cublasLtMatmulDescSetAttribute(struct description *d, int a, const void *p, size_t n) {
    if (a != 3 || n != 4) return 7;
    d->transpose = *(const int *)p;
    return 0;
}
R cublasLtMatrixLayoutCreate(void **l, int type, uint64_t r, uint64_t c, int64_t ld) {
    struct layout *x = malloc(sizeof *x);
    *x = (struct layout){type, r, c};
    *l = x;
    return ld == (int64_t)r ? 0 : 7;
}
R cublasLtMatrixLayoutDestroy(void *l) {
    free(l);
    return 0;
}
R cublasLtMatmulPreferenceCreate(void **p) {
    *p = malloc(1);
    return 0;
}
R cublasLtMatmulPreferenceDestroy(void *p) {
    free(p);
    return 0;
}
R cublasLtMatmulPreferenceSetAttribute(void *p, int a, const void *v, size_t n) { return a == 1 && n == 8 ? 0 : 7; }

// cudaDataType_t to the numbers of kernels.cu.
static int type_of(int t) { return t == 0 ? F32 : t == 1 ? F64 : t == 2 ? F16 : t == 14 ? BF16 : t == 28 ? E4M3 : -1; }
static int rate_type(const struct description *d, const struct layout *a) {
    int t = type_of(a->type);
    return t == F32 && d->compute == 77 ? TF32 : t;
}

struct heuristic {
    uint64_t algo[8];
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};
R cublasLtMatmulAlgoGetHeuristic(void *h, struct description *d, struct layout *a, struct layout *b, struct layout *c, struct layout *e,
    void *p, int want, struct heuristic *out, int *got) {
    if (a->rows != b->rows || c->rows != a->cols || c->cols != b->cols) return 7;
    int t = rate_type(d, a);
    *got = 0;
    if (t < 0 || !machine()->flops[t]) return 15;
    *got = want < 3 ? want : 3;
    for (int i = 0; i < *got; i++) out[i] = (struct heuristic){{i + 1}, 0, i == 1 ? 15 : 0, 1};
    return 0;
}
R cublasLtMatmul(void *h, struct description *d, const void *alpha, const void *A, struct layout *a, const void *B, struct layout *b,
    const void *beta, const void *C, struct layout *c, void *D, struct layout *e, const uint64_t *algo, void *w, size_t wn, void *st) {
    ALIVE;
    int in = type_of(a->type), out = type_of(c->type), t = rate_type(d, a);
    if (d->transpose != 1 || C != D || !algo[0] || algo[0] > 3 || !st || in < 0 || out < 0 || in != type_of(b->type)) return 7;
    if (a->rows != b->rows || c->rows != a->cols || c->cols != b->cols || !machine()->flops[t]) return 7;
    if (!warm_kernels[t][algo[0]]) {
        warm_kernels[t][algo[0]] = 1;
        takes(machine()->kernel);
    }
    struct op *o = op_new(MATMUL, st);
    uint64_t v[] = {(uint64_t)A, (uint64_t)B, (uint64_t)D, c->rows, c->cols, a->rows, in, out, t, algo[0]};
    memcpy(o->v, v, sizeof v);
    queue(o);
    if (fault("lost") && fault("lost")->gpu < 0) lost = 1;
    return 0;
}
static void do_matmul(struct op *o) {
    const struct machine *m = machine();
    uint64_t *v = o->v;
    struct stream *s = o->s;
    int gpu = s->gpu;
    Time begin = s->t > o->queued ? s->t : o->queued;
    double h = heat(gpu, begin), rate = m->flops[v[8]] * (1 - h + h * m->sustained) * chip(gpu) * share_of("slow", gpu, 0.84);
    if (v[9] != 3) rate *= 0.96; // the first that the heuristic names is not the fastest
    double full = v[3] < 4096 ? 0.4 + 0.6 * v[3] / 4096 : 1;
    double ns = 2.0 * v[3] * v[4] * v[5] / (rate * full);
    begin = run_on(s, COMPUTE, o->queued, ns + 3000);
    warm(gpu, begin, s->t);
    uint64_t n = v[3] * v[4] * wide(v[7]);
    write_rule(v[2], (struct seg){0, n, PRODUCT, .p = {product_of(v[0], v[1], v[3], v[4], v[5], v[6], v[7], v[8], v[9])}});
    if (fault_of("bits", gpu, 1)) {
        uint32_t w;
        read_bytes(v[2] + n / 8 * 4, 4, &w);
        w ^= 2;
        write_bytes(v[2] + n / 8 * 4, 4, &w);
    }
}
