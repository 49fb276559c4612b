#include "names.h"

bool hf_topic_name_ok(hf_str name) {
    if (name.n == 0 || name.n > HF_TOPIC_NAME_MAX) return false;
    if (hf_str_is(name, ".") || hf_str_is(name, "..")) return false;
    for (size_t i = 0; i < name.n; i++) {
        char c = name.p[i];
        bool ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
                  c == '_' || c == '-';
        if (!ok) return false;
    }
    return true;
}

bool hf_topic_is_ours(hf_str name) {
    return hf_str_starts(name, HF_STR(HF_TOPIC_PREFIX));
}

bool hf_group_suffix_ok(hf_str group) {
    size_t longest = sizeof HF_TOPIC_CHECK - 1;
    return group.n + longest <= HF_TOPIC_NAME_MAX &&
           (hf_topic_name_ok(group) || hf_str_is(group, ".") || hf_str_is(group, ".."));
}

uint32_t hf_murmur2(const void *p, size_t n) {
    const uint32_t m = 0x5bd1e995;
    const uint8_t *at = p;
    uint32_t h = 0x9747b28cu ^ (uint32_t)n;
    for (; n >= 4; n -= 4, at += 4) {
        uint32_t k = (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
        k *= m;
        k ^= k >> 24;
        k *= m;
        h = h * m ^ k;
    }
    if (n == 3) h ^= (uint32_t)at[2] << 16;
    if (n >= 2) h ^= (uint32_t)at[1] << 8;
    if (n >= 1) h = (h ^ at[0]) * m;
    h ^= h >> 13;
    h *= m;
    return h ^ h >> 15;
}

int32_t hf_partition_of_key(hf_str key, int32_t partitions) {
    return (int32_t)((hf_murmur2(key.p, key.n) & 0x7fffffffu) % (uint32_t)partitions);
}
