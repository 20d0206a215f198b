/* Times MPI_Allreduce (float, sum, out of place) at 8 bytes and 64 MiB; the peer of gonogo's `all-reduce` cases.
 *
 * A sample is one block: a barrier, then `calls` operations back to back; its time is the slowest rank's. Rank 0
 * prints {"8": [seconds per operation, ...], "67108864": [...]}. A wrong sum on any rank ends the job. */

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

struct plan {
    size_t bytes;
    int warmup, blocks, calls;
};

static const struct plan PLANS[] = {{8, 1000, 30, 2000}, {64u << 20, 3, 15, 1}};

/* Small integers: their sums are exact in any order, and differ by place and by rank. */
static float input(int rank, size_t i) {
    return (float)((i % 251 + 1) * (size_t)(rank + 1));
}

static void fail(const char *what) {
    fprintf(stderr, "allreduce: %s\n", what);
    MPI_Abort(MPI_COMM_WORLD, 1);
}

static void verify(const float *sum, size_t count, int ranks) {
    const size_t weights = (size_t)ranks * (size_t)(ranks + 1) / 2;
    for (size_t i = 0; i < count; i++)
        if (sum[i] != (float)((i % 251 + 1) * weights))
            fail("wrong sum");
}

static void measure(const struct plan *plan, int rank, int ranks) {
    const size_t count = plan->bytes / sizeof(float);
    float *data = malloc(plan->bytes), *sum = malloc(plan->bytes);
    if (!data || !sum)
        fail("out of memory");
    for (size_t i = 0; i < count; i++) {
        data[i] = input(rank, i);
        sum[i] = -1.0f;
    }
    for (int i = 0; i < plan->warmup; i++)
        MPI_Allreduce(data, sum, (int)count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    verify(sum, count, ranks);

    if (rank == 0)
        printf("\"%zu\": [", plan->bytes);
    for (int block = 0; block < plan->blocks; block++) {
        MPI_Barrier(MPI_COMM_WORLD);
        const double start = MPI_Wtime();
        for (int i = 0; i < plan->calls; i++)
            MPI_Allreduce(data, sum, (int)count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        const double mine = (MPI_Wtime() - start) / plan->calls;
        double slowest = 0.0;
        MPI_Reduce(&mine, &slowest, 1, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
        if (rank == 0)
            printf("%s%.9e", block ? ", " : "", slowest);
    }
    verify(sum, count, ranks);
    if (rank == 0)
        printf("]");
    free(data);
    free(sum);
}

int main(int argc, char **argv) {
    int rank, ranks;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    if (ranks < 2)
        fail("needs 2 ranks or more");
    if (rank == 0)
        printf("{");
    for (size_t i = 0; i < sizeof PLANS / sizeof *PLANS; i++) {
        if (rank == 0 && i > 0)
            printf(", ");
        measure(&PLANS[i], rank, ranks);
    }
    if (rank == 0)
        printf("}\n");
    MPI_Finalize();
    return 0;
}
