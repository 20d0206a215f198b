// Libraries of an image that say what they are and do nothing else: one file, compiled to each of them (see image-lab).
// They are for tests of what gonogo says of an image; nothing can be measured with them.
#include <stddef.h>

#ifdef CUDART // 12040
int cudaRuntimeGetVersion(int *v) { *v = CUDART; return 0; }
#endif
#ifdef CUBLASLT // 120405
size_t cublasLtGetVersion(void) { return CUBLASLT; }
size_t cublasLtGetCudartVersion(void) { return 12040; }
#endif
#ifdef NCCL // 22105
int ncclGetVersion(int *v) { *v = NCCL; return 0; }
const char built[] = "NCCL version " NCCL_TEXT "+cuda12.4";
#endif
#ifdef STUB
int cuInit(unsigned flags) { return 34; }
#endif
#ifdef PLUGIN // ncclNetPlugin_v8
struct { const char *name; } PLUGIN = { "lab" };
#endif
#ifdef CODE
// A container of GPU code as nvcc makes it: heads of entries alone, each of no bytes.
#define TEXT2(x) #x
#define TEXT(x) TEXT2(x)
#define ENTRY(sm) ".short 2, 257\n.long 64\n.quad 0\n.long 0, 0, 0, " TEXT(sm) "\n.zero 32\n"
__asm__(".section .nv_fatbin,\"a\"\n.balign 8\n.long 0xba55ed50\n.short 1, 16\n.quad 128\n" ENTRY(80) ENTRY(CODE) ".previous\n");
#endif
