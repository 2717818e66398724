#include "states.hpp"

#include <stdexcept>

#include "plan.hpp"

namespace llm {

namespace {

constexpr size_t kLineFloats = 16;  // a cache line: states of two operations share none

void require(bool condition, const char* message) {
    if (!condition) throw std::invalid_argument(message);
}

struct Segment {
    int end, source, target;
};

Segment segment(const StepInput& input, int i) {
    const int32_t* row = input.state_segments + size_t(i) * 3;
    return {row[0], row[1], row[2]};
}

}  // namespace

size_t StatePool::take(size_t count) {
    require(!memory, "states must be taken before there are slots");
    const size_t offset = floats;
    floats += (count + kLineFloats - 1) / kLineFloats * kLineFloats;
    return offset;
}

void StatePool::allocate(int count) {
    require(floats > 0 && count > 0, "slots for states need operations that have states");
    slots = count;
    memory = std::make_unique<Mapping>(size_t(count) * floats * sizeof(float));
}

void StatePool::check(const StepInput& input) const {
    require(!floats || memory, "a plan with recurrent layers needs slots for their states");
    require(memory || !input.num_segments, "this model has no states");
    if (!memory) return;
    std::vector<int> writer(size_t(slots), -1), reader(size_t(slots), -1);
    int begin = 0, sequence = 0;
    for (int i = 0; i < input.num_segments; i++) {
        const auto [end, source, target] = segment(input, i);
        require(begin < end && sequence < input.num_sequences && end <= input.query_starts[sequence + 1],
                "state segments must cut the step's tokens into stretches of one sequence");
        require(source < slots && target >= 0 && target < slots, "a slot of a state is out of range");
        require((source < 0) == (input.positions[begin] == 0), "a state begins from zeros at position 0, and only there");
        int& owner = writer[size_t(target)];
        require(owner < 0 || owner == sequence, "two sequences write to one state");
        owner = sequence;
        if (source >= 0) {
            int& one = reader[size_t(source)];
            one = one < 0 || one == sequence ? sequence : input.num_sequences;  // several
        }
        begin = end;
        if (end == input.query_starts[sequence + 1]) sequence++;
    }
    require(begin == input.num_tokens, "state segments must reach to the step's last token");
    for (int i = 0; i < slots; i++)
        require(writer[size_t(i)] < 0 || reader[size_t(i)] < 0 || writer[size_t(i)] == reader[size_t(i)],
                "a state is read while another sequence writes it");
}

void StatePool::prepare(const StepInput& input, std::vector<StateSegment>& segments, std::vector<int>& first_of) const {
    segments.clear();
    first_of.assign(1, 0);
    int begin = 0;
    for (int i = 0; i < input.num_segments; i++) {
        const auto [end, source, target] = segment(input, i);
        segments.push_back({begin, end, source < 0 ? nullptr : slot(source), slot(target)});
        if (end == input.query_starts[first_of.size()]) first_of.push_back(i + 1);
        begin = end;
    }
}

}  // namespace llm
