/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_main.c - runs one fuzz target without a fuzzing engine: its seeds, then mutations of them,
 * the same each time.
 *
 * A target is fuzz_x.c with LLVMFuzzerTestOneInput(), as libFuzzer and AFL++ know it: `clang
 * -fsanitize=fuzzer,address` links it without this file.  A target may add fuzz_seed() (valid
 * inputs to start from; else a few shapes of bytes serve) and fuzz_fix() (makes checksums right, so
 * that mutations reach what lies behind them).
 *
 *   fuzz_x [--rounds=N] [--seed=N] [file...]    files are run as they are (to replay what a fuzzer found)
 *
 * A run ends after the rounds or, without --rounds, after a second (long form: two minutes).
 *
 * Each input is copied to an allocation of exactly its size, so that a sanitizer sees every read
 * beyond it.
 */
#include "base/random.h"
#include "tests/test_main.h"

#include <inttypes.h>
#include <time.h>

#define INPUT_MAX (256u << 10)
#define SEEDS_MAX 32u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t fuzz_seed(unsigned n, uint8_t *buf, size_t room) __attribute__((weak)); /* 0: no more */
void fuzz_fix(uint8_t *data, size_t size) __attribute__((weak));

static struct {
    uint8_t *data;
    size_t size;
} seed[SEEDS_MAX];
static unsigned seeds;

static void
run(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size > 0 ? size : 1);

    if (copy == NULL)
        abort();
    if (size > 0)
        memcpy(copy, data, size);
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

static void
seed_add(const uint8_t *data, size_t size)
{
    if (seeds == SEEDS_MAX)
        return;
    seed[seeds].data = malloc(size > 0 ? size : 1);
    if (seed[seeds].data == NULL)
        abort();
    memcpy(seed[seeds].data, data, size);
    seed[seeds++].size = size;
}

static void
seeds_make(uint8_t *buf)
{
    size_t size;

    for (unsigned i = 0; fuzz_seed != NULL && (size = fuzz_seed(i, buf, INPUT_MAX)) > 0; i++)
        seed_add(buf, size);
    if (seeds > 0)
        return;
    static const size_t shape[] = { 0, 1, 24, 64, 512, 4096, 4097, 5000, 8192, 16384, 65536 };
    for (unsigned i = 0; i < sizeof(shape) / sizeof(shape[0]); i++) {
        memset(buf, (int)(i % 3 == 0 ? 0 : i % 3 == 1 ? 0xff : 1), shape[i]);
        seed_add(buf, shape[i]);
    }
}

static size_t
mutate_once(uint8_t *buf, size_t size, struct random *r)
{
    static const uint64_t interesting[] = {
        0,         1,       7,          8,           0x7f,        0x80,
        0xff,      0x100,   0xfff,      0x1000,      0x7fff,      0x8000,
        0xffff,    0x10000, 0x7fffffff, 0x80000000u, 0xffffffffu, UINT64_C(0x7fffffffffffffff),
        UINT64_MAX
    };
    uint64_t v = interesting[random_below(r, sizeof(interesting) / sizeof(interesting[0]))];
    size_t at =
        size > 0 ? (size_t)random_below(r, random_chance(r, 1, 2) && size > 128 ? 128 : size) : 0;
    size_t n = size - at < 8 ? size - at : 8;

    switch (size == 0 ? 5 : random_below(r, 9)) {
    case 0: buf[at] ^= (uint8_t)(1u << random_below(r, 8)); break;
    case 1: buf[at] = (uint8_t)random_u64(r); break;
    case 2: memcpy(buf + at, &v, n > 2 ? 2 : n); break;
    case 3: memcpy(buf + at, &v, n > 4 ? 4 : n); break;
    case 4: memcpy(buf + at, &v, n); break;
    case 5: /* longer or shorter */
        if (random_chance(r, 1, 2) || size == 0) {
            size_t more = (size_t)random_below(r, 64);
            if (size + more > INPUT_MAX)
                return size;
            memset(buf + size, (int)random_below(r, 256), more);
            return size + more;
        }
        return at;
    case 6: { /* copy a part over another */
        size_t from = (size_t)random_below(r, size), len = (size_t)random_below(r, 64);
        len = len < size - at ? len : size - at;
        len = len < size - from ? len : size - from;
        memmove(buf + at, buf + from, len);
        break;
    }
    case 7: { /* a little more or less */
        uint16_t w;
        if (n < 2)
            break;
        memcpy(&w, buf + at, 2);
        w = (uint16_t)(w + random_below(r, 17) - 8);
        memcpy(buf + at, &w, 2);
        break;
    }
    default: { /* a part of another seed */
        unsigned s = (unsigned)random_below(r, seeds);
        size_t len = (size_t)random_below(r, 256);
        len = len < size - at ? len : size - at;
        if (at < seed[s].size)
            memcpy(buf + at, seed[s].data + at, len < seed[s].size - at ? len : seed[s].size - at);
        break;
    }
    }
    return size;
}

static int
run_files(int count, char **names, uint8_t *buf)
{
    for (int i = 0; i < count; i++) {
        FILE *f = fopen(names[i], "rb");
        if (f == NULL) {
            perror(names[i]);
            return EXIT_FAILURE;
        }
        size_t size = fread(buf, 1, INPUT_MAX, f);
        fclose(f);
        run(buf, size);
    }
    return EXIT_SUCCESS;
}

int
main(int argc, char **argv)
{
    uint64_t rounds = test_scale(300000, 50000000), number = test_seed(1);
    uint8_t *buf = malloc(INPUT_MAX);
    struct random r;

    if (buf == NULL)
        return EXIT_FAILURE;
    int first = 1;
    bool forever = false;
    time_t end = time(NULL) + (time_t)test_scale(2, 120);
    for (; first < argc && strncmp(argv[first], "--", 2) == 0; first++)
        if (!(forever |= sscanf(argv[first], "--rounds=%" SCNu64, &rounds) == 1) &&
            sscanf(argv[first], "--seed=%" SCNu64, &number) != 1) {
            fprintf(stderr, "usage: %s [--rounds=N] [--seed=N] [file...]\n", argv[0]);
            return 2;
        }
    if (first < argc)
        return run_files(argc - first, argv + first, buf);
    random_init(&r, number);
    seeds_make(buf);
    for (unsigned i = 0; i < seeds; i++)
        run(seed[i].data, seed[i].size);
    uint64_t n = 0;
    for (; n < rounds && (forever || n % 256 != 0 || time(NULL) < end); n++) {
        unsigned s = (unsigned)random_below(&r, seeds);
        size_t size = seed[s].size;
        memcpy(buf, seed[s].data, size);
        for (uint64_t m = 1 + random_below(&r, random_chance(&r, 1, 4) ? 32 : 4); m > 0; m--)
            size = mutate_once(buf, size, &r);
        if (fuzz_fix != NULL && random_chance(&r, 7, 8))
            fuzz_fix(buf, size);
        run(buf, size);
    }
    printf("%s: %u seeds, %" PRIu64 " mutations, seed %" PRIu64 "\n", argv[0], seeds, n, number);
    for (unsigned i = 0; i < seeds; i++)
        free(seed[i].data);
    free(buf);
    return EXIT_SUCCESS;
}
