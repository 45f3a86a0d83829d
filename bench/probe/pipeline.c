/*
 * The yardstick of `bench pipeline`: the same work over dirty bitmaps in plain C, as the compiler vectorizes it.
 * Built by the bench itself: gcc -O3 -march=native -shared -fPIC.
 */
#include <stddef.h>
#include <stdint.h>

void probe_or(uint64_t *restrict target, const uint64_t *restrict source, size_t count)
{
    for (size_t i = 0; i < count; i++)
        target[i] |= source[i];
}

uint64_t probe_scan(const uint64_t *words, size_t count)
{
    uint64_t any = 0;
    for (size_t i = 0; i < count; i++)
        any |= words[i];
    return any;
}

uint64_t probe_count(const uint64_t *words, size_t count)
{
    uint64_t bits = 0;
    for (size_t i = 0; i < count; i++)
        bits += (uint64_t)__builtin_popcountll(words[i]);
    return bits;
}

/* Runs of set bits. The sum of their lengths, mixed with where they begin, shows that both sides found the same. */
uint64_t probe_runs(const uint64_t *words, size_t count, uint64_t *digest)
{
    uint64_t runs = 0, mixed = 0, begin = 0;
    int open = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t word = words[i];
        uint64_t page = (uint64_t)i * 64;
        if (open) {
            if (word == UINT64_MAX)
                continue;
            int ones = __builtin_ctzll(~word);
            mixed += begin ^ (page + (uint64_t)ones - begin);
            runs++;
            open = 0;
            word &= ~((1ull << ones) - 1);
        }
        while (word != 0) {
            int first = __builtin_ctzll(word);
            uint64_t rest = ~(word >> first);
            int ones = rest == 0 ? 64 : __builtin_ctzll(rest);
            begin = page + (uint64_t)first;
            if (first + ones >= 64) {
                open = 1;
                break;
            }
            mixed += begin ^ (uint64_t)ones;
            runs++;
            word &= ~(((1ull << ones) - 1) << first);
        }
    }
    if (open) {
        mixed += begin ^ ((uint64_t)count * 64 - begin);
        runs++;
    }
    *digest = mixed;
    return runs;
}

/*
 * One pass over two sources, as a harvest must do it: each source's pages are gathered in a bitmap of their own and counted,
 * because a report tells them apart, then joined to the union; the union is counted and cut into runs, and emptied.
 */
uint64_t probe_pass(uint64_t *restrict joined, uint64_t *restrict gathered, const uint64_t *first, const uint64_t *second,
                    size_t count, uint64_t *total, uint64_t *digest)
{
    uint64_t counted = 0;
    for (int source = 0; source < 2; source++) {
        probe_or(gathered, source == 0 ? first : second, count);
        counted += probe_count(gathered, count);
        probe_or(joined, gathered, count);
        for (size_t i = 0; i < count; i++)
            gathered[i] = 0;
    }
    counted += probe_count(joined, count);
    *total = counted;
    uint64_t runs = probe_runs(joined, count, digest);
    for (size_t i = 0; i < count; i++)
        joined[i] = 0;
    return runs;
}
