#include "plan.hpp"

#include <algorithm>
#include <stdexcept>

#include "operations.hpp"
#include "quantize.hpp"

namespace llm {

namespace {

void require(bool condition, const std::string& message) {
    if (!condition) throw std::invalid_argument(message);
}

}  // namespace

void Model::reserve_activations(const Operation& writer) {
    const int cols = writer.activation_cols;
    const size_t rows = size_t(max_tokens) * size_t(writer.on_slots ? experts_used : 1);
    const size_t size = rows * size_t(cols);
    if (exact) {
        if (values.size() < size) values.resize(size);
        return;
    }
    const size_t groups = rows * Activations::narrow_stride(cols);
    if (writer.writes_narrow(*kernels) && narrow.size() < groups) narrow.resize(groups);
    if (writer.writes_wide(*kernels) && wide.size() < size) {
        wide.resize(size);
        wide_scales.resize(size / kGroup);
    }
}

Plan::Plan(int threads, const std::string& isa, int max_tokens, int max_context, Side side)
    : side_(side), pool_(std::max(threads, 1)) {
    require(max_tokens > 0 && max_context > 0, "max_tokens and max_context must be positive");
    model.kernels = &select_kernels(isa.c_str());
    model.max_tokens = max_tokens;
    model.max_context = max_context;
    model.scratch.resize(size_t(pool_.size()));
}

void Plan::use(const std::string& isa) {
    model.kernels = &select_kernels(isa.c_str());
    for (const auto& operation : operations_)
        if (operation->activation_cols) model.reserve_activations(*operation);
}

int Plan::pack(const std::string& kind_name, const uint8_t* data, size_t bytes, int rows, int cols,
               const std::string& format_name, const int32_t* permutation) {
    const Kind kind = kind_from_name(kind_name);
    // By the CPU, whichever of its instruction sets the plan has: all of them give the same bits.
    const Format format = format_for(kind, format_name, select_kernels("auto").bytes_pay);
    require(model.matrices.empty() || model.exact == (format == Format::f32), "f32 matrices do not mix with packed ones");
    model.exact = format == Format::f32;
    require(rows > 0 && cols > 0 && cols % kGroup == 0, "a packed matrix needs rows, and columns in multiples of 32");
    const size_t stride = row_bytes(kind, cols);
    require(bytes == stride * size_t(rows), "the tensor's size does not match its shape");
    for (int i = 0; permutation && i < rows; i++)
        require(permutation[i] >= 0 && permutation[i] < rows, "the row permutation is out of range");

    const int panels = (rows + kPanel - 1) / kPanel;
    const size_t panel_bytes = panel_stride(format, cols);
    auto* target = static_cast<uint8_t*>(arena_.allocate(panel_bytes * panels));
    pool_.for_each(panels, [&](int panel) {
        const uint8_t* sources[kPanel];
        for (int o = 0; o < kPanel; o++) {
            const int row = panel * kPanel + o;
            sources[o] = row >= rows ? nullptr : data + stride * size_t(permutation ? permutation[row] : row);
        }
        pack_panel(kind, format, sources, cols, target + panel_bytes * panel);
    });
    model.matrices.push_back({format, rows, cols, panel_bytes, target});
    return int(model.matrices.size()) - 1;
}

int Plan::vector(const float* values, int count) {
    model.vectors.emplace_back(values, values + count);
    return int(model.vectors.size()) - 1;
}

int Plan::buffer(int width, bool of_slots) {
    require(width > 0, "a buffer needs a width");
    model.buffers.push_back({width, of_slots, {}});
    return int(model.buffers.size()) - 1;
}

void Plan::kv_cache(const std::vector<std::pair<int, int>>& layers, int blocks, const std::string& format) {
    require(!layers.empty() && blocks > 0, "the KV cache needs layers and blocks");
    require(format == "q16" || format == "q8" || format == "q4", "the KV cache holds q16, q8 or q4");
    for (const auto& [heads, head_dim] : layers) {
        require(heads > 0 && head_dim > 0 && head_dim % 8 == 0, "the KV cache needs heads, and their size in multiples of 8");
        require(head_dim <= kMostHeadDim, "the KV cache takes heads of up to " + std::to_string(kMostHeadDim));
    }
    for (const auto& operation : operations_)
        if (const auto* store = dynamic_cast<const RopeStore*>(operation.get()); store && store->shared >= 0) {
            const auto& [heads, head_dim] = layers.at(size_t(store->layer));
            require(model.vectors[size_t(store->shared)].size() == size_t(heads) * size_t(head_dim), "what keys share is as long as they are");
        }
    KvCache& kv = model.kv;
    kv.lay_out(layers, format == "q4" ? KvFormat::q4 : format == "q8" ? KvFormat::q8 : KvFormat::q16);
    kv.blocks = blocks;
    kv.memory = std::make_unique<Mapping>(kv.chunks() * kv.chunk_stride());
    kv.touch_ahead(-1);
}

void Plan::rope_table(const float* values, int positions, int rotated, const std::vector<int>& axes) {
    require(positions >= model.max_context, "the rope table is shorter than the context");
    model.rope.assign(values, values + size_t(positions) * rotated);
    model.rotated = rotated;
    model.rope_axes = axes_of(axes, rotated);
}

std::vector<uint8_t> Plan::axes_of(const std::vector<int>& axes, int rotated) {
    const bool known = std::all_of(axes.begin(), axes.end(), [](int axis) { return axis >= 0 && axis < 3; });
    require(axes.empty() || (known && axes.size() == size_t(rotated / 2)), "each frequency turns by axis 0, 1 or 2");
    model.turns_by_axes |= !axes.empty();
    return {axes.begin(), axes.end()};
}

void Plan::add(std::unique_ptr<Operation> operation, int activation_cols, bool on_slots) {
    require(!on_slots || model.experts_used, "slots need a route before them");
    operation->on_logit_rows = selecting_;
    operation->on_slots = on_slots;
    operation->activation_cols = activation_cols;
    operations_.push_back(std::move(operation));
}

void Plan::add_beside(std::unique_ptr<Operation> operation) {
    require(!operations_.empty(), "there is no operation to run beside");
    operation->on_logit_rows = selecting_;
    operations_.back()->beside = std::move(operation);
}

Operation& Plan::last_writer() const {
    for (auto operation = operations_.rbegin(); operation != operations_.rend(); ++operation)
        if ((*operation)->activation_cols) return **operation;
    throw std::invalid_argument("a matrix product needs activations before it");
}

int Plan::read_activations(const PackedMatrix& matrix, int first) {
    Operation& writer = last_writer();
    const bool fits = first < 0 ? matrix.cols == writer.activation_cols
                                : first % kGroup == 0 && first <= writer.activation_cols - matrix.cols;
    require(fits, "a matrix has " + std::to_string(matrix.cols) + " columns where " + std::to_string(writer.activation_cols) +
                      (first < 0 ? " are needed" : " are, and it begins at " + std::to_string(first)));
    (reads_wide(matrix.format) ? writer.wide : writer.narrow) = true;
    model.reserve_activations(writer);
    return writer.activation_cols;
}

void Plan::check(const StepInput& s) const {
    require(s.num_tokens > 0 && s.num_tokens <= model.max_tokens, "a step carries 1 to max_step_tokens tokens");
    require(s.num_sequences > 0 && s.query_starts[0] == 0 && s.query_starts[s.num_sequences] == s.num_tokens,
            "query_starts must run from 0 to the number of tokens");
    for (int i = 0; i < s.num_sequences; i++) {
        const int first = s.query_starts[i], end = s.query_starts[i + 1];
        require(first < end, "every sequence of a step needs a token");
        for (int t = first; t < end; t++)
            require(s.positions[t] >= 0 && s.positions[t] < model.max_context, "a position is outside the context");
        if (!model.kv.memory) continue;
        for (int t = first; t < end; t++)
            require(s.positions[t] == s.positions[first] + t - first, "positions must be consecutive");
        const int blocks = s.positions[end - 1] / kBlockTokens + 1;
        require(blocks <= s.table_width, "a block table is shorter than its sequence");
        for (int b = 0; b < blocks; b++) {
            const int block = s.block_tables[size_t(i) * s.table_width + b];
            require(block >= 0 && block < model.kv.blocks, "a block id is out of range");
        }
    }
    check_given(s);
    check_seen(s);
    check_rotary(s);
    for (int i = 0; s.adapters && i < s.num_sequences; i++)
        require(s.adapters[i] >= -1 && s.adapters[i] < model.adapters, "a sequence has an adapter that the model does not know");
    model.recurrent.check(s);
    for (int t = 0; model.vocab && t < s.num_tokens; t++)
        require(s.token_ids[t] >= 0 && s.token_ids[t] < model.vocab, "a token id is outside the vocabulary");
    for (int i = 0; i < s.num_rows; i++)
        require(s.logit_rows[i] >= 0 && s.logit_rows[i] < s.num_tokens, "a logit row is out of range");
}

void Plan::check_given(const StepInput& s) const {
    require(!s.num_given || s.given_width == model.given_width, "given rows are of another width than the model's embeddings");
    require(model.vocab || s.num_given == s.num_tokens, "this model's rows are all given");
    for (int i = 0; i < s.num_given; i++)
        require(s.given_rows[i] > (i ? s.given_rows[i - 1] : -1) && s.given_rows[i] < s.num_tokens,
                "given rows must be of tokens of the step, in ascending order");
}

void Plan::check_seen(const StepInput& s) const {
    for (int i = 0; s.seen && i < s.num_sequences; i++)
        for (int t = s.query_starts[i], end = s.query_starts[i + 1]; t < end; t++)
            require(s.seen[t] > s.positions[t] && s.seen[t] <= s.positions[end - 1] + 1 &&
                        (t == s.query_starts[i] || s.seen[t] >= s.seen[t - 1]),
                    "a token sees itself at least, nothing behind the step, and no less than the one before it");
}

void Plan::check_rotary(const StepInput& s) const {
    require(!s.rotary || model.turns_by_axes, "this model's rotary positions have one dimension");
    for (int i = 0; s.rotary && i < 3 * s.num_tokens; i++)
        require(s.rotary[i] >= 0 && s.rotary[i] < model.max_context, "a rotary position is outside the context");
}

void Plan::prepare_attention(const StepInput& input) {
    std::vector<TokenRun>& runs = step_.runs;
    runs.clear();
    for (int s = 0; s < input.num_sequences; s++) {
        const int first = input.query_starts[s], end = input.query_starts[s + 1];
        const int32_t* table = input.block_tables + size_t(s) * input.table_width;
        for (int t = first; t < end; t++) model.kv.touch_ahead(table[input.positions[t] / kBlockTokens]);
        add_run(input, s, first, end);
    }
    cut_runs(input, step_.token_tiles);
    if (!model.attends_rows) return;
    runs.clear();
    for (int r = 0; r < input.num_rows; r++) {
        const int token = input.logit_rows[r], sequence = step_.sequence_of[size_t(token)];
        const bool begins = model.attention_chunk && input.positions[token] % model.attention_chunk == 0;
        const bool goes_on = !begins && !runs.empty() && runs.back().sequence == sequence && runs.back().first + runs.back().count == token;
        if (goes_on) runs.back().count++;
        else runs.push_back({sequence, token, 1, r});
    }
    cut_runs(input, step_.row_tiles);
}

// Tokens of a sequence that are all of the step, in as many runs as there are chunks of attention.
void Plan::add_run(const StepInput& input, int sequence, int first, int end) {
    const int chunk = model.attention_chunk;
    for (int next; first < end; first = next) {
        next = chunk ? std::min(end, first + chunk - input.positions[first] % chunk) : end;
        step_.runs.push_back({sequence, first, next - first, first});
    }
}

void Plan::cut_runs(const StepInput& input, std::vector<TokenTile>& tiles) {
    const auto pieces_of = [&](const TokenRun& run) { return input.positions[run.first + run.count - 1] / kPieceTokens + 1; };
    tiles.clear();
    int splits = 0;
    size_t states = 0;
    int all_pieces = 0;
    for (const TokenRun& run : step_.runs) all_pieces += pieces_of(run);
    // One tile of a whole context reads on where a piece ends, but is split where it would be the last to end.
    const int most_pieces = std::max(all_pieces * model.kv.fewest_heads / (8 * pool_.size()), 1);
    for (const TokenRun& run : step_.runs) {
        const int pieces = pieces_of(run);
        if (pieces <= most_pieces || run.count > kAttentionTokens) {
            for (int t = 0; t < run.count; t += kAttentionTokens)
                tiles.push_back({run.sequence, run.first + t, std::min(kAttentionTokens, run.count - t), run.row + t, 0, 1, 1, 0, 0});
            continue;
        }
        for (int p = 0; p < pieces; p += most_pieces)
            tiles.push_back({run.sequence, run.first, run.count, run.row, p, std::min(p + most_pieces, pieces), pieces, splits, states});
        splits++;
        states += size_t(pieces) * size_t(run.count) * size_t(model.query_heads);
    }
    const size_t floats = states * size_t(state_floats(model.kv.most_head_dim)), counters = size_t(splits) * size_t(model.kv.most_heads);
    if (model.states.size() < floats) model.states.resize(floats);
    if (model.pieces_done.size() < counters) model.pieces_done = std::vector<std::atomic<int>>(counters);
}

void Plan::prepare(const StepInput& input) {
    step_.input = input;
    step_.sequence_of.resize(size_t(input.num_tokens));
    for (int s = 0; s < input.num_sequences; s++)
        for (int t = input.query_starts[s]; t < input.query_starts[s + 1]; t++) step_.sequence_of[size_t(t)] = s;
    step_.given_of.assign(input.num_given ? size_t(input.num_tokens) : 0, -1);
    for (int i = 0; i < input.num_given; i++) step_.given_of[size_t(input.given_rows[i])] = i;
    prepare_adapters(input);
    if (model.kv.memory) prepare_attention(input);
    model.recurrent.prepare(input, step_.segments, step_.first_segment);
    const int rows = std::max(input.num_tokens, input.num_rows);
    const size_t slots = size_t(input.num_tokens) * size_t(model.experts_used);
    step_.routing.chosen.resize(slots);
    step_.routing.shares.resize(slots);
    step_.routing.row_of.resize(slots);
    step_.routing.slots_of.resize(slots);
    step_.routing.weights.resize(slots);
    step_.routing.weight_of.resize(slots);
    for (Buffer& buffer : model.buffers) {
        const bool logits = selecting_ && &buffer == &model.buffers.back();
        const size_t own = buffer.of_slots ? slots : size_t(logits ? input.num_rows : rows);
        const size_t size = own * size_t(buffer.width);
        if (buffer.data.size() < size) buffer.data.resize(size);
    }
}

}  // namespace llm
