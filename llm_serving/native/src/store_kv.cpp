// Keys and values of a token into a block of the KV cache (kv_format.hpp).
#include <algorithm>
#include <cmath>

#include "rotation.hpp"
#include "wide_lanes.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

// One token's vector as integers, dimension d at place(d); returns their scale.
template <class T, class Place>
float store_integers(const float* x, int head_dim, T* out, Place place) {
    constexpr float kMost = kMostOf<T>;
    const float largest = largest_of(x, head_dim);
    const float inverse = inverse_of(largest, kMost);
    T rounded[kMostHeadDim];  // first, as vectors do that
    for (int d = 0; d < head_dim; d++) rounded[d] = T(int32_t(round_even(x[d] * inverse)));
    for (int d = 0; d < head_dim; d++) out[place(d)] = rounded[d];
    return largest / kMost;
}

struct Turned {
    float values[kMostHeadDim];
    Turned(const float* x, int head_dim) {
        std::copy_n(x, head_dim, values);
        rotate(values, head_dim);
    }
};

template <class T>
void store_pairs(const float* key, const float* value, int head_dim, int slot, uint8_t* key_bytes, uint8_t* value_bytes) {
    T *keys = reinterpret_cast<T*>(key_bytes), *values = reinterpret_cast<T*>(value_bytes);
    const size_t scales = size_t(head_dim) * kBlockTokens;
    reinterpret_cast<float*>(keys + scales)[slot] =
        store_integers(key, head_dim, keys, [&](int d) { return (d / 2 * kBlockTokens + slot) * 2 + d % 2; });
    reinterpret_cast<float*>(values + scales)[slot] =
        store_integers(value, head_dim, values, [&](int d) { return (slot / 2 * head_dim + d) * 2 + slot % 2; });
}

// Codes of x: dimensions d and d + apart, of every 2 apart, in the byte that place(d) tells. Returns their scale, with
// which least is lost: x @ values / values @ values.
template <class Place>
float store_codes(const float* x, int head_dim, int apart, uint8_t* out, Place place) {
    uint8_t codes[kept_dims<Codes>(kMostHeadDim)] = {};
    const float inverse = inverse_of(largest_of(x, head_dim), kMostCoded);
    float values[kMostHeadDim];
    for (int d = 0; d < head_dim; d++) {
        const float scaled = x[d] * inverse, size = std::fabs(scaled);
        int step = 0;
        for (int i = 8; i < 15; i++) step += size > 0.5f * float(kCodes[i] + kCodes[i + 1]) ? 1 : 0;
        codes[d] = uint8_t(scaled < 0 ? 7 - step : 8 + step);
        values[d] = float(kCodes[codes[d]]);
    }
    for (int first = 0; first < head_dim; first += 2 * apart)
        for (int d = first; d < first + apart; d++) out[place(d)] = uint8_t(codes[d] | codes[d + apart] << 4);
    Lanes own = broadcast(0.0f), all = own;
    for (int d = 0; d < head_dim; d += kLanes) {
        own = fused(load(x + d), load(values + d), own);
        all = fused(load(values + d), load(values + d), all);
    }
    return sum(own) / sum(all);
}

void store_codes(const float* key, const float* value, int head_dim, int slot, uint8_t* keys, uint8_t* values) {
    const int kept = kept_dims<Codes>(head_dim), scales = kept * kBlockTokens / 2;
    reinterpret_cast<float*>(keys + scales)[slot] =
        store_codes(key, head_dim, 2, keys, [&](int d) { return (d / 4 * kBlockTokens + slot) * 2 + d % 2; });
    reinterpret_cast<float*>(values + scales)[slot] =
        store_codes(value, head_dim, kWideLanes, values, [&](int d) { return slot / 2 * kept + d / 32 * 32 + d % 16 * 2 + slot % 2; });
}

}  // namespace

void store_kv(KvFormat format, const float* key, const float* value, int head_dim, int slot, uint8_t* keys, uint8_t* values) {
    if (!is_turned(format)) return store_pairs<int16_t>(key, value, head_dim, slot, keys, values);
    const Turned turned_key(key, head_dim), turned_value(value, head_dim);
    if (format == KvFormat::q4) store_codes(turned_key.values, turned_value.values, head_dim, slot, keys, values);
    else store_pairs<int8_t>(turned_key.values, turned_value.values, head_dim, slot, keys, values);
}

}  // namespace llm::LLM_NAMESPACE
