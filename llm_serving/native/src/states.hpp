// What recurrent layers remember of sequences: one slot holds the states of all these layers, in f32.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "memory.hpp"

namespace llm {

struct StepInput;

// A stretch of one sequence's tokens, by index in the step, which are to be taken in one by one, in order.
struct StateSegment {
    int begin, end;
    const float* source;  // the slot it goes on from; null: from zeros
    float* target;        // the slot to leave the state in; it may be the same

    // The state of one operation, `count` floats from `offset` on, as it is before the stretch: to be changed in place.
    // Every part of a state is opened once for each segment, by whoever takes its tokens in.
    float* open(size_t offset, size_t count) const {
        float* state = target + offset;
        if (!source) memset(state, 0, count * sizeof(float));
        else if (source != target) memcpy(state, source + offset, count * sizeof(float));
        return state;
    }
};

struct StatePool {
    size_t floats = 0;  // of a slot; operations have taken theirs
    int slots = 0;
    std::unique_ptr<Mapping> memory;

    // Room for `count` floats of an operation, in every slot; where it begins. Before `allocate`.
    size_t take(size_t count);
    // Throws std::invalid_argument unless there are operations with states, and slots.
    void allocate(int count);
    float* slot(int index) const { return static_cast<float*>(memory->data()) + size_t(index) * floats; }
    // Throws std::invalid_argument unless segments are as `Step.state_segments` says.
    void check(const StepInput& input) const;
    // Segments of all sequences; those of sequence s begin at `first_of[s]` and end at `first_of[s + 1]`.
    void prepare(const StepInput& input, std::vector<StateSegment>& segments, std::vector<int>& first_of) const;
};

}  // namespace llm
