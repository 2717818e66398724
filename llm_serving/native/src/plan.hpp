// A model as a list of operations, run for one step in one call.
//
// Workers take an operation's tiles from atomic counters, and go on to the next one when all of them are done, see
// rounds.hpp. Tiles decide who computes, never in which order numbers are added.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels.hpp"
#include "memory.hpp"
#include "states.hpp"
#include "threads.hpp"
#include "turns.hpp"

namespace llm {

// Float rows that operations read and write: [token or logit row][width], or [slot][width], see Routing.
struct Buffer {
    int width;
    bool of_slots = false;
    std::vector<float> data;
    float* row(int i) { return data.data() + size_t(i) * width; }
};

// What a layer keeps of every token.
struct KvLayer {
    int heads, head_dim;
    size_t before = 0;  // bytes of a block that layers before it take
};

// Keys and values of all layers that keep some.
struct KvCache {
    std::vector<KvLayer> layers;
    int blocks = 0;
    int fewest_heads = 0, most_heads = 0, most_head_dim = 0;  // of any layer
    size_t block_bytes = 0;
    KvFormat format = KvFormat::q16;
    std::unique_ptr<Mapping> memory;
    // Sets all but `blocks` and `memory`; `shapes` are (heads, head_dim).
    void lay_out(const std::vector<std::pair<int, int>>& shapes, KvFormat kept_as);
    size_t vectors(int layer) const { return vectors_bytes(format, layers[size_t(layer)].head_dim); }
    size_t chunk_stride() const { return kChunkBlocks * block_bytes; }
    size_t chunks() const { return (size_t(blocks) + kChunkBlocks - 1) / kChunkBlocks; }
    uint8_t* keys(int layer, int head, int block) const { return at(layer, 0, head, block); }
    uint8_t* values(int layer, int head, int block) const { return at(layer, 1, head, block); }
    // Called with every block before it is used for the first time, so that no step pays for a whole chunk.
    void touch_ahead(int block);
    // Called while there is nothing to do: makes a little of the memory ready that will be used next; whether there is more.
    bool touch_while_idle();

private:
    size_t wanted_ = 0;   // bytes, from the first on: of the blocks used so far and a chunk
    size_t touched_ = 0;  // bytes, from the first on
    void touch(size_t end);
    uint8_t* at(int layer, int which, int head, int block) const {
        const KvLayer& own = layers[size_t(layer)];
        const size_t size = vectors(layer), before = own.before + (size_t(which) * own.heads + head) * size;
        return static_cast<uint8_t*>(memory->data()) + before * kChunkBlocks + block_offset(block, size, chunk_stride());
    }
};

// The arrays of one step, as `Step` in engine/protocol.py describes them.
struct StepInput {
    const int32_t* token_ids;
    const int32_t* positions;
    int num_tokens;
    const int32_t* query_starts;
    int num_sequences;
    const int32_t* block_tables;
    int table_width;
    const int32_t* logit_rows;
    int num_rows;
    const float* given;         // [num_given][given_width]: what stands for the embeddings of some tokens
    const int32_t* given_rows;  // [num_given]: of these, by index, ascending
    int num_given = 0, given_width = 0;
    const int32_t* seen = nullptr;  // [num_tokens]: how many keys each token sees, from the first on; null: up to its own
    const int32_t* adapters = nullptr;  // [num_sequences]: the adapter of each, or -1; null if none has one
    const int32_t* state_segments = nullptr;  // [num_segments][end, source, target]
    int num_segments = 0;
    const int32_t* rotary = nullptr;  // [num_tokens][3]: what turns by axes goes by these; null: by positions, as all else does
};

// Consecutive tokens of one sequence whose rows lie next to each other in buffers.
struct TokenRun {
    int sequence, first, count, row;
};

// Up to kAttentionTokens tokens of a run. The context of few tokens is split, a tile for some pieces of
// it: from `piece` to `piece_end` of `pieces`. Else `pieces` is 1, and the tile covers all they see.
struct TokenTile {
    int sequence, first, count;
    int row;             // of the first, in buffers
    int piece, piece_end, pieces;
    int split;           // which of the step's split contexts
    size_t first_state;  // of its piece 0, in rows
};

struct Model;

// Who works on which rows in the mixture of experts at hand. Each row has `Model::experts_used` slots, one for each of its
// experts; slots of an expert lie next to each other, by row, and experts follow each other by number.
struct Routing {
    struct Run {
        int expert, begin, end;  // some slots of one expert
    };
    std::vector<int> chosen;     // [row][used] experts, best first
    std::vector<float> shares;   // [row][used] their weights
    std::vector<int> row_of;     // [slot]
    std::vector<int> slots_of;   // [row][used], by expert
    std::vector<float> weights;  // [row][used], of these slots
    std::vector<float> weight_of;  // [slot]
    std::vector<Run> runs;       // all slots
};

// The rows whose sequences have an adapter. Each has a slot; slots of an adapter lie next to each other, by row.
struct AdaptedRows {
    struct Run {
        int adapter, begin, end;  // some slots of one adapter
    };
    std::vector<int> slot_of;  // [row], or -1; empty if no row has one
    std::vector<int> row_of;   // [slot]
    std::vector<Run> runs;     // all slots
    // `adapter_of` [row], or -1; below `adapters`.
    void group(const std::vector<int>& adapter_of, int adapters);
};

struct StepState {
    StepInput input;
    std::vector<int> sequence_of;  // [token]
    std::vector<int> given_of;     // [token]: which of the given rows is its own, or -1; empty if there are none
    std::vector<TokenRun> runs;
    std::vector<TokenTile> token_tiles, row_tiles;  // of all tokens, and of those whose logits are wanted
    std::vector<StateSegment> segments;  // of recurrent layers
    std::vector<int> first_segment;      // [sequence + 1]
    mutable Routing routing;  // by Route and Arrange
    AdaptedRows adapted_tokens, adapted_logit_rows;
    const AdaptedRows& adapted(bool of_logits) const { return of_logits ? adapted_logit_rows : adapted_tokens; }
    const std::vector<TokenTile>& tiles(bool of_logits) const { return of_logits ? row_tiles : token_tiles; }
    const float* given(int token) const {
        if (given_of.empty() || given_of[size_t(token)] < 0) return nullptr;
        return input.given + size_t(given_of[size_t(token)]) * size_t(input.given_width);
    }
};

class Operation {
public:
    bool on_logit_rows = false;  // works on the selected rows instead of all tokens
    bool on_slots = false;       // works on the slots of these rows
    int activation_cols = 0;     // > 0: writes quantised rows of that width
    bool narrow = false, wide = false;  // which of them the next matrices read, where kernels have wide ones
    bool keeps_adapted = false;  // adapters read rows of them in f32
    std::unique_ptr<Operation> beside;  // null, or what may run at the same time
    virtual ~Operation() = default;
    bool writes_narrow(const Kernels& kernels) const { return narrow || (wide && !kernels.has_wide); }
    bool writes_wide(const Kernels& kernels) const { return wide && kernels.has_wide; }
    virtual int num_tiles(const Model& model, const StepState& step) const = 0;
    virtual void run_tile(Model& model, const StepState& step, int tile, int worker) const = 0;

protected:
    int token_of(const StepState& step, int row) const { return on_logit_rows ? step.input.logit_rows[row] : row; }
    int num_rows(const StepState& step) const {
        if (on_slots) return int(step.routing.row_of.size());
        return on_logit_rows ? step.input.num_rows : step.input.num_tokens;
    }
};

// Weights, buffers and state that operations refer to by index.
struct Model {
    const Kernels* kernels = nullptr;
    int max_tokens = 0;
    int max_context = 0;
    int vocab = 0;  // rows of the embedding; 0: all rows are given
    int given_width = 0;  // of the buffer that they go to
    int experts = 0;       // of the last mixture
    int experts_used = 0;  // by a row; the same in all mixtures
    std::vector<PackedMatrix> matrices;
    std::vector<std::vector<float>> vectors;
    std::vector<Buffer> buffers;
    KvCache kv;
    StatePool recurrent;
    std::vector<float> rope;  // [position][cos rotated/2, sin rotated/2]
    int rotated = 0;
    std::vector<uint8_t> rope_axes;  // [rotated / 2], or empty: by which of a token's rotary positions each frequency turns
    bool turns_by_axes = false;      // these, or some operation's own ones
    std::vector<NarrowGroup> narrow;
    std::vector<int16_t> wide;
    std::vector<float> wide_scales;
    std::vector<float> values;  // activations as they are, for f32 weights
    bool exact = false;         // weights are f32: nothing is quantised
    int adapters = 0;           // that a step may name
    int adapted_cols = 0;       // of activations that adapters read, at most
    int most_rank = 0;          // of all that one adapter has behind one operation, at most
    std::vector<PackedMatrix> low_ranks;  // f32, of any number of columns
    std::vector<float> adapted;           // [slot][activation_cols]: rows that adapters read, of the operation at hand
    std::vector<float> low;               // [slot][most_rank], see AdapterDown
    int query_heads = 0;        // of attention over the KV cache
    bool attends_rows = false;  // some of it is of logit rows only
    int attention_chunk = 0;    // > 0: some of it is of stretches of so many tokens, which runs lie within then
    std::vector<float> states;  // [split context][piece][KV head][token][group][state_floats()]
    std::vector<std::atomic<int>> pieces_done;  // [split context][KV head]
    std::vector<std::vector<float>> scratch;  // [worker]

    // Quantised rows of the operation at hand; the storage is shared by all of them in turn.
    Activations activations(int cols) { return {narrow.data(), wide.data(), wide_scales.data(), values.data(), cols}; }
    void reserve_activations(const Operation& writer);
};

class Plan {
public:
    Plan(int threads, const std::string& isa, int max_tokens, int max_context, Side side = Side::chat);

    int pack(const std::string& kind, const uint8_t* data, size_t bytes, int rows, int cols, const std::string& format,
             const int32_t* permutation);
    // Panels that were packed before, as they lie, or a copy in the plan's own memory; those that are not
    // copied must outlive the plan. Throws std::invalid_argument where size or alignment do not fit.
    int adopt(const std::string& format, const uint8_t* data, size_t bytes, int rows, int cols, bool copy);
    // Of the bytes and their number; the same on every machine, whatever the threads.
    uint64_t checksum(const uint8_t* data, size_t bytes);
    // A matrix of an adapter, row by row; its number in `low_ranks`.
    int low_rank(const float* values, int rows, int cols);
    int vector(const float* values, int count);
    int buffer(int width, bool of_slots = false);
    // `layers` are (heads, head_dim), `format` is "q16" or "q8". Throws std::invalid_argument for another one, or sizes
    // that kernels do not take.
    void kv_cache(const std::vector<std::pair<int, int>>& layers, int blocks, const std::string& format);
    // What a block holds, keys and values of each layer and head in turn, and back; kv.block_bytes bytes.
    // Throws std::invalid_argument for an id or a size out of range.
    void read_block(int block, uint8_t* out, size_t bytes) const;
    void write_block(int block, const uint8_t* data, size_t bytes);
    void rope_table(const float* values, int positions, int rotated, const std::vector<int>& axes);
    // As `Model::rope_axes` has them. Throws std::invalid_argument for others than 0, 1 and 2, or another number of them.
    std::vector<uint8_t> axes_of(const std::vector<int>& axes, int rotated);
    void add(std::unique_ptr<Operation> operation, int activation_cols = 0, bool on_slots = false);
    // Behind the last operation there is no need to wait for this one.
    void add_beside(std::unique_ptr<Operation> operation);
    // Who writes the activations that are read next. Throws std::invalid_argument if nobody does.
    Operation& last_writer() const;
    // This matrix reads the last activations, or with `first` as many columns from there on; returns their width. Throws
    // std::invalid_argument if it is another than the matrix has, or they end before.
    int read_activations(const PackedMatrix& matrix, int first = -1);
    void select_rows() { selecting_ = true; }
    // What computes from the next step on. Throws std::invalid_argument as select_kernels does.
    void use(const std::string& isa);

    // Returns the output buffer: [num_rows] if rows were selected, else [num_tokens]. Throws std::invalid_argument for ids out
    // of range, and what a tile threw, such as std::bad_alloc. Such a step can be repeated where it leaves states in other slots.
    const float* run(const StepInput& input, int output_buffer);
    // While true, `run` leaves out all tiles, and what it returns means nothing: for plans without a KV cache. Any thread may
    // set it.
    std::atomic<bool> interrupted{false};

    Model model;
    size_t weight_bytes() const;
    int threads() const { return pool_.size(); }
    bool selects_rows() const { return selecting_; }

private:
    void check(const StepInput& input) const;
    void check_given(const StepInput& input) const;
    void check_seen(const StepInput& input) const;
    void check_rotary(const StepInput& input) const;
    void prepare(const StepInput& input);
    void prepare_attention(const StepInput& input);
    void prepare_adapters(const StepInput& input);
    void add_run(const StepInput& input, int sequence, int first, int end);
    void cut_runs(const StepInput& input, std::vector<TokenTile>& tiles);

    const Side side_;
    ThreadPool pool_;
    Arena arena_;
    StepState step_;
    std::vector<std::unique_ptr<Operation>> operations_;
    bool selecting_ = false;
};

}  // namespace llm
