// A step of a plan: its operations one after another, their tiles on all workers.
#include <algorithm>

#include "first_exception.hpp"
#include "plan.hpp"
#include "rounds.hpp"

namespace llm {

const float* Plan::run(const StepInput& input, int output_buffer) {
    check(input);
    prepare(input);
    std::vector<int> own(operations_.size());  // tiles, without those beside
    const auto count = [&](int round) {
        const Operation& operation = *operations_[size_t(round)];
        own[size_t(round)] = operation.num_tiles(model, step_);
        return own[size_t(round)] + (operation.beside ? operation.beside->num_tiles(model, step_) : 0);
    };
    Rounds rounds(pool_.size(), int(operations_.size()), count);
    FirstException failure;
    Turn turn(process_turns(), side_);
    pool_.run([&](int worker) {
        take_priority(side_);
        for (int round = rounds.current(); round < rounds.size(); round = rounds.after(round)) {
            pool_.check_core(worker);
            const Operation& operation = *operations_[size_t(round)];
            int done = 0;
            for (int tile = rounds.take(worker, round); tile >= 0; tile = rounds.take(worker, round), done++) {
                try {
                    turn.pass();
                    if (interrupted.load(std::memory_order_relaxed) || failure.is_kept()) continue;
                    const int beside = tile - own[size_t(round)];
                    if (beside < 0) operation.run_tile(model, step_, tile, worker);
                    else operation.beside->run_tile(model, step_, beside, worker);
                } catch (...) {
                    failure.keep();
                }
            }
            if (done) rounds.finish(round, done, count);
        }
    });
    if (failure.is_kept()) std::fill(model.pieces_done.begin(), model.pieces_done.end(), 0);  // of tiles that were left out
    failure.rethrow();
    return model.buffers[size_t(output_buffer)].data.data();
}

}  // namespace llm
