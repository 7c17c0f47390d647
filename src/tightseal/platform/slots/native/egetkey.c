/* SPDX-License-Identifier: Apache-2.0 */
/*
 * EREPORT and EGETKEY for a process inside an SGX enclave, and nothing else.
 *
 * Build inside the image of the enclave, and list the result as a trusted file:
 *   cc -O2 -std=c11 -Wall -Wextra -Werror -fPIC -shared \
 *      -o libtightseal-egetkey.so egetkey.c
 *
 * Which key is asked for is decided by the caller. Intel SDM volume 3D, ENCLU[EREPORT],
 * ENCLU[EGETKEY]; alignments are those of the leaf functions.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>

#if !defined(__x86_64__)
#error "SGX exists on x86-64 only"
#endif

#define EXPORT __attribute__((visibility("default")))

enum { LEAF_EREPORT = 0, LEAF_EGETKEY = 1 };

/* Above every status of EGETKEY, which are single low bits. */
#define STATUS_NO_ENCLAVE 0x80000001u

#define INTERFACE_VERSION 1u

struct key_request { _Alignas(512) uint8_t bytes[512]; };
struct target_info { _Alignas(512) uint8_t bytes[512]; };
struct report_data { _Alignas(128) uint8_t bytes[64]; };
struct report { _Alignas(512) uint8_t bytes[432]; };
struct key { _Alignas(16) uint8_t bytes[16]; };

static sigjmp_buf not_here;

/* Outside an enclave ENCLU faults: a message for the operator, not a core dump. */
static void on_fault(int number)
{
    (void)number;
    siglongjmp(not_here, 1);
}

static uint32_t enclu(uint32_t leaf, const void *rbx, const void *rcx, void *rdx)
{
    uint64_t rax = leaf;

    __asm__ volatile(".byte 0x0f, 0x01, 0xd7" /* ENCLU */
                     : "+a"(rax), "+b"(rbx), "+c"(rcx), "+d"(rdx)
                     :
                     : "memory", "cc");
    return (uint32_t)rax;
}

/* Used at start, by one thread: the handlers are the process's. */
static uint32_t guarded(uint32_t leaf, const void *rbx, const void *rcx, void *rdx)
{
    struct sigaction caught, ill, segv;
    volatile uint32_t status = STATUS_NO_ENCLAVE;

    memset(&caught, 0, sizeof caught);
    caught.sa_handler = on_fault;
    sigemptyset(&caught.sa_mask);
    if (sigaction(SIGILL, &caught, &ill) != 0)
        return STATUS_NO_ENCLAVE;
    if (sigaction(SIGSEGV, &caught, &segv) != 0) {
        (void)sigaction(SIGILL, &ill, NULL);
        return STATUS_NO_ENCLAVE;
    }
    if (sigsetjmp(not_here, 1) == 0)
        status = enclu(leaf, rbx, rcx, rdx);
    (void)sigaction(SIGSEGV, &segv, NULL);
    (void)sigaction(SIGILL, &ill, NULL);
    return status;
}

EXPORT uint32_t tightseal_egetkey_version(void)
{
    return INTERFACE_VERSION;
}

/* 512 bytes of TARGETINFO to 432 bytes of REPORT over zero report data; 0 or a status. */
EXPORT uint32_t tightseal_ereport(const uint8_t *target_info, uint8_t *report)
{
    static struct target_info target;
    static struct report_data data;
    static struct report made;
    uint32_t status;

    memcpy(target.bytes, target_info, sizeof target.bytes);
    memset(data.bytes, 0, sizeof data.bytes);
    memset(made.bytes, 0, sizeof made.bytes);
    status = guarded(LEAF_EREPORT, target.bytes, data.bytes, made.bytes);
    /* EREPORT has no status: it faults or succeeds, and leaves its leaf in EAX. */
    if (status == STATUS_NO_ENCLAVE)
        return status;
    memcpy(report, made.bytes, sizeof made.bytes);
    return 0;
}

/* 512 bytes of KEYREQUEST to 16 bytes of key; 0 or EGETKEY's status. */
EXPORT uint32_t tightseal_egetkey(const uint8_t *key_request, uint8_t *key)
{
    static struct key_request request;
    static struct key made;
    uint32_t status;

    memcpy(request.bytes, key_request, sizeof request.bytes);
    memset(made.bytes, 0, sizeof made.bytes);
    status = guarded(LEAF_EGETKEY, request.bytes, made.bytes, NULL);
    if (status == 0)
        memcpy(key, made.bytes, sizeof made.bytes);
    explicit_bzero(made.bytes, sizeof made.bytes);
    return status;
}
