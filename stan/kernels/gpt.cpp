// A GPT: forward and reverse pass for a tile of sequences at a time.
//
// Each stage has all components of the stage before it. So there is one GPT here, and the number
// of the stage selects its components. `forward` follows gpt_logits in stan/12-final.stan, and
// `reverse` goes through the same components in the opposite order.

#include "gpt.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

#include "bricks.hpp"

namespace gptbayes {
namespace {

// The first stage that has each component.
constexpr int HEAD = 2, POSITION = 3, ATTENTION = 4, FEED_FORWARD = 6, SKIP = 7,
              FEED_FORWARD_PROJECTION = 8, LAYER_NORM = 9, BLOCKS = 10, DROPOUT = 11,
              PROJECTION = 12;

constexpr std::size_t TILE_BYTES = 1 << 20;  // half of a common level-2 cache

/// One argument of gpt_logits and its gradient; null if the stage does not have it.
struct Argument {
  const double* value = nullptr;
  double* gradient = nullptr;

  Argument item(int index, int size) const {
    return {value + index * size, gradient ? gradient + index * size : nullptr};
  }
};

/// The arguments of gpt_logits by name. gptbayes/model/kernel_sources.py writes `arguments.inc`.
struct Arguments {
#define GPTBAYES_ARGUMENT(since, name, ...) Argument name;
#include "arguments.inc"
#undef GPTBAYES_ARGUMENT

  Arguments(int stage, const double* const* values, double* const* gradients) {
    int next = 0;
#define GPTBAYES_ARGUMENT(since, name, ...)                       \
  if (stage >= since) {                                           \
    name = {values[next], gradients ? gradients[next] : nullptr}; \
    ++next;                                                       \
  }
#include "arguments.inc"
#undef GPTBAYES_ARGUMENT
  }
};

/// What the forward pass of a layer norm stores for the reverse pass.
struct Norm {
  Pack *out, *unit, *inverse_sd;
};

/// What the forward pass of one block stores for the reverse pass.
struct Block {
  Norm norm1, norm2;
  Pack *q, *k, *v;          // (C, columns)
  Pack *weights, *dropped;  // a triangle per head and group of sequences
  Pack* heads;              // outputs of all heads, (C, columns)
  Pack* middle;             // residual stream after attention
  Pack* hidden;             // (F, columns)
  Pack* after;              // residual stream after the block
};

/// Allocates from one piece of memory; without memory, counts how much is needed.
class Arena {
 public:
  explicit Arena(Pack* memory) : memory_(memory) {}
  Pack* take(std::size_t count) {
    used_ += count;
    return memory_ ? memory_ + used_ - count : nullptr;
  }
  std::size_t used() const { return used_; }

 private:
  Pack* memory_;
  std::size_t used_ = 0;
};

class Tile {
 public:
  /// @param groups of PACK_SIZE sequences
  Tile(const gptbayes_sizes& sizes, const Arguments& arguments, int groups, Pack* memory)
      : s_(sizes), a_(arguments), groups_(groups), columns_(groups * sizes.T),
        hidden_size_(sizes.stage >= FEED_FORWARD_PROJECTION ? 4 * sizes.C : sizes.C),
        blocks_(sizes.stage >= ATTENTION ? sizes.L : 0) {
    Arena arena(memory);
    const auto rows = [&](int count) { return arena.take(std::size_t(count) * columns_); };
    const auto norm = [&]() -> Norm { return {rows(s_.C), rows(s_.C), rows(1)}; };
    weight_ = rows(1);
    log_lik_ = rows(1);
    largest_ = rows(1);
    total_ = rows(1);
    x_.resize(std::size_t(columns_) * PACK_SIZE);
    y_.resize(std::size_t(columns_) * PACK_SIZE);
    embedded_ = rows(s_.C);
    const std::size_t triangles = std::size_t(s_.H) * groups_ * triangle_size(s_.T);
    for (Block& b : blocks_) {
      if (has(LAYER_NORM)) {
        b.norm1 = norm();
        b.norm2 = norm();
      }
      b.q = rows(s_.C);
      b.k = rows(s_.C);
      b.v = rows(s_.C);
      b.weights = arena.take(triangles);
      b.dropped = has(DROPOUT) ? arena.take(triangles) : b.weights;
      b.heads = rows(s_.C);
      b.middle = has(PROJECTION) || has(SKIP) ? rows(s_.C) : b.heads;
      b.hidden = has(FEED_FORWARD) ? rows(hidden_size_) : nullptr;
      b.after = has(SKIP) ? rows(s_.C) : has(FEED_FORWARD) ? b.hidden : b.middle;
    }
    if (has(BLOCKS)) {
      final_ = norm();
    }
    logits_ = rows(s_.V);
    d_stream_ = rows(s_.C);
    d_read_ = rows(s_.C);
    d_out_ = rows(s_.C);
    d_heads_ = rows(s_.C);
    d_q_ = rows(s_.C);
    d_k_ = rows(s_.C);
    d_v_ = rows(s_.C);
    d_hidden_ = rows(hidden_size_);
    d_weights_ = arena.take(triangle_size(s_.T));
    work_ = rows(BLOCK_COLUMNS * PACK_SIZE);
    size_ = arena.used();
  }

  std::size_t size() const { return size_; }

  /// Read sequences first to last - 1. Unused lanes repeat the last sequence with weight 0.
  void read(const int* x, const int* y, const double* weights, int first, int last) {
    for_each_token(first, last, [&](int column, int lane, int token, bool left_over) {
      x_[column * PACK_SIZE + lane] = x[token];
      y_[column * PACK_SIZE + lane] = y[token];
      weight_[column][lane] = left_over ? 0 : weights[token];
    });
  }

  void write(double* log_lik, int first, int last) const {
    for_each_token(first, last, [&](int column, int lane, int token, bool left_over) {
      if (!left_over) {
        log_lik[token] = log_lik_[column][lane];
      }
    });
  }

  void forward() {
    embed();
    const Pack* stream = embedded_;
    for (int l = 0; l < int(blocks_.size()); ++l) {
      attend(l, stream);
      if (has(FEED_FORWARD)) {
        feed_forward(l);
      }
      stream = blocks_[l].after;
    }
    if (has(BLOCKS)) {
      norm(final_, stream, a_.ln_f_weight, a_.ln_f_bias);
      stream = final_.out;
    }
    if (has(HEAD)) {
      linear(logits_, lm_head(), a_.lm_head_offset.value, stream, s_.V, s_.C, columns_);
    } else {
      std::copy(stream, stream + s_.V * columns_, logits_);
    }
    token_log_likelihood(logits_, y_.data(), weight_, log_lik_, largest_, total_, s_.V, columns_);
  }

  /// Call after `forward`, which leaves the derivative with respect to the logits in `logits_`.
  void reverse() {
    const Pack* stream = blocks_.empty() ? embedded_ : blocks_.back().after;
    Pack* d = has(BLOCKS) ? d_read_ : d_stream_;
    if (has(HEAD)) {
      linear_reverse(d, false, lm_head(), a_.lm_head_offset.gradient, logits_,
                     has(BLOCKS) ? final_.out : stream, s_.V, s_.C, columns_, work_);
    } else {
      std::copy(logits_, logits_ + s_.V * columns_, d);
    }
    if (has(BLOCKS)) {
      std::fill(d_stream_, d_stream_ + s_.C * columns_, Pack{});
      norm_reverse(d_stream_, final_, a_.ln_f_weight, a_.ln_f_bias);
    }
    for (int l = int(blocks_.size()) - 1; l >= 0; --l) {
      if (has(FEED_FORWARD)) {
        feed_forward_reverse(l);
      }
      attend_reverse(l, l > 0 ? blocks_[l - 1].after : embedded_);
    }
    embed_reverse();
  }

 private:
  bool has(int since) const { return s_.stage >= since; }
  int head_size() const { return s_.C / s_.H; }
  int count() const { return s_.C * columns_; }

  // ---- embeddings ----

  void embed() {
    for (int n = 0; n < columns_; ++n) {
      const double* position
          = has(POSITION) ? a_.position_embedding.value + n % s_.T * s_.C : nullptr;
      for (int c = 0; c < s_.C; ++c) {
        Pack& out = embedded_[c * columns_ + n];
        for (int lane = 0; lane < PACK_SIZE; ++lane) {
          out[lane] = a_.token_embedding.value[x_[n * PACK_SIZE + lane] * s_.C + c];
        }
        if (position) {
          out += position[c];
        }
      }
    }
  }

  void embed_reverse() {
    for (int n = 0; n < columns_; ++n) {
      for (int lane = 0; lane < PACK_SIZE; ++lane) {
        double* gradient = a_.token_embedding.gradient + x_[n * PACK_SIZE + lane] * s_.C;
        for (int c = 0; c < s_.C; ++c) {
          gradient[c] += d_stream_[c * columns_ + n][lane];
        }
      }
      if (has(POSITION)) {
        double* gradient = a_.position_embedding.gradient + n % s_.T * s_.C;
        for (int c = 0; c < s_.C; ++c) {
          gradient[c] += sum(d_stream_[c * columns_ + n]);
        }
      }
    }
  }

  // ---- the first half of a block: attention ----

  void attend(int l, const Pack* stream) {
    Block& b = blocks_[l];
    const Pack* read = stream;
    if (has(LAYER_NORM)) {
      norm(b.norm1, stream, a_.ln1_weight.item(l, s_.C), a_.ln1_bias.item(l, s_.C));
      read = b.norm1.out;
    }
    for (int head = 0; head < s_.H; ++head) {
      linear(of_head(b.q, head), projection(a_.query, l, head), nullptr, read, head_size(), s_.C,
             columns_);
      linear(of_head(b.k, head), projection(a_.key, l, head), nullptr, read, head_size(), s_.C,
             columns_);
      linear(of_head(b.v, head), projection(a_.value, l, head), nullptr, read, head_size(), s_.C,
             columns_);
      for_each_group(head, [&](int triangle, int row) {
        attention_weights(b.weights + triangle, b.q + row, b.k + row, s_.T, head_size(), columns_);
        if (has(DROPOUT)) {
          drop_weights(b.dropped + triangle, b.weights + triangle, attention_mask(l, head), s_.T);
        }
        weights_times_values(b.heads + row, b.dropped + triangle, b.v + row, s_.T, head_size(),
                             columns_);
      });
    }
    Pack* out = b.middle;
    if (has(PROJECTION)) {
      linear(out, out_of_heads(l), a_.sa_proj_offset.item(l, s_.C).value, b.heads, s_.C, s_.C,
             columns_);
    } else if (out != b.heads) {
      std::copy(b.heads, b.heads + count(), out);
    }
    if (has(DROPOUT)) {
      drop(out, a_.attention_output_mask.item(l, s_.C).value, s_.C, columns_);
    }
    if (has(SKIP)) {
      add(out, stream);
    }
  }

  /// d_stream_: from the derivative with respect to the residual stream after attention to that
  /// before it
  void attend_reverse(int l, const Pack* stream) {
    Block& b = blocks_[l];
    const Pack* read = has(LAYER_NORM) ? b.norm1.out : stream;
    const Pack* d_out = d_stream_;
    if (has(DROPOUT)) {
      std::copy(d_stream_, d_stream_ + count(), d_out_);
      drop(d_out_, a_.attention_output_mask.item(l, s_.C).value, s_.C, columns_);
      d_out = d_out_;
    }
    if (has(PROJECTION)) {
      linear_reverse(d_heads_, false, out_of_heads(l), a_.sa_proj_offset.item(l, s_.C).gradient,
                     d_out, b.heads, s_.C, s_.C, columns_, work_);
      d_out = d_heads_;
    }
    for (int head = 0; head < s_.H; ++head) {
      for_each_group(head, [&](int triangle, int row) {
        attention_reverse(l, head, b, triangle, row, d_out);
      });
    }
    Pack* d_read = has(LAYER_NORM) ? d_read_ : d_stream_;
    bool added = has(SKIP) && !has(LAYER_NORM);
    for (int head = 0; head < s_.H; ++head) {
      const struct { const Argument& map; const Pack* d; } parts[]
          = {{a_.query, d_q_}, {a_.key, d_k_}, {a_.value, d_v_}};
      for (const auto& part : parts) {
        linear_reverse(d_read, added, projection(part.map, l, head), nullptr,
                       part.d + head * head_size() * columns_, read, head_size(), s_.C, columns_,
                       work_);
        added = true;
      }
    }
    if (has(LAYER_NORM)) {
      norm_reverse(d_stream_, b.norm1, a_.ln1_weight.item(l, s_.C), a_.ln1_bias.item(l, s_.C));
    }
  }

  void attention_reverse(int l, int head, const Block& b, int at, int row, const Pack* d_out) {
    const int T = s_.T, h = head_size();
    transposed_weights_times_values(d_v_ + row, b.dropped + at, d_out + row, T, h, columns_);
    triangle(d_weights_, d_out + row, b.v + row, T, h, columns_);
    if (has(DROPOUT)) {
      drop_weights(d_weights_, d_weights_, attention_mask(l, head), T);
    }
    attention_weights_reverse(d_weights_, b.weights + at, T, h);
    weights_times_values(d_q_ + row, d_weights_, b.k + row, T, h, columns_);
    transposed_weights_times_values(d_k_ + row, d_weights_, b.q + row, T, h, columns_);
  }

  // ---- the second half of a block: feed-forward ----

  void feed_forward(int l) {
    Block& b = blocks_[l];
    const Pack* read = b.middle;
    if (has(LAYER_NORM)) {
      norm(b.norm2, b.middle, a_.ln2_weight.item(l, s_.C), a_.ln2_bias.item(l, s_.C));
      read = b.norm2.out;
    }
    linear(b.hidden, into_hidden(l), a_.feed_forward_offset.item(l, hidden_size_).value, read,
           hidden_size_, s_.C, columns_);
    positive_part(b.hidden, hidden_size_ * columns_);
    if (has(FEED_FORWARD_PROJECTION)) {
      linear(b.after, out_of_hidden(l), a_.feed_forward_proj_offset.item(l, s_.C).value, b.hidden,
             s_.C, hidden_size_, columns_);
    } else if (b.after != b.hidden) {
      std::copy(b.hidden, b.hidden + count(), b.after);
    }
    if (has(DROPOUT)) {
      drop(b.after, a_.feed_forward_mask.item(l, s_.C).value, s_.C, columns_);
    }
    if (has(SKIP)) {
      add(b.after, b.middle);
    }
  }

  /// d_stream_: from the derivative with respect to the residual stream after the block to that
  /// after attention
  void feed_forward_reverse(int l) {
    Block& b = blocks_[l];
    const Pack* d_out = d_stream_;
    if (has(DROPOUT)) {
      std::copy(d_stream_, d_stream_ + count(), d_out_);
      drop(d_out_, a_.feed_forward_mask.item(l, s_.C).value, s_.C, columns_);
      d_out = d_out_;
    }
    if (has(FEED_FORWARD_PROJECTION)) {
      linear_reverse(d_hidden_, false, out_of_hidden(l),
                     a_.feed_forward_proj_offset.item(l, s_.C).gradient, d_out, b.hidden, s_.C,
                     hidden_size_, columns_, work_);
    } else {
      std::copy(d_out, d_out + count(), d_hidden_);
    }
    positive_part_reverse(d_hidden_, b.hidden, hidden_size_ * columns_);
    Pack* d_read = has(LAYER_NORM) ? d_read_ : d_stream_;
    linear_reverse(d_read, has(SKIP) && !has(LAYER_NORM), into_hidden(l),
                   a_.feed_forward_offset.item(l, hidden_size_).gradient, d_hidden_,
                   has(LAYER_NORM) ? b.norm2.out : b.middle, hidden_size_, s_.C, columns_,
                   work_);
    if (has(LAYER_NORM)) {
      norm_reverse(d_stream_, b.norm2, a_.ln2_weight.item(l, s_.C), a_.ln2_bias.item(l, s_.C));
    }
  }

  // ---- helpers ----

  void norm(const Norm& n, const Pack* stream, Argument weight, Argument bias) {
    layer_norm(n.out, n.unit, n.inverse_sd, stream, weight.value, bias.value, s_.C, columns_);
  }

  /// The reverse pass of a layer norm: from d_read_, added to `d`
  void norm_reverse(Pack* d, const Norm& n, Argument weight, Argument bias) {
    layer_norm_reverse(d, weight.gradient, bias.gradient, d_read_, n.unit, n.inverse_sd,
                       weight.value, s_.C, columns_);
  }

  /// (h, C): the Stan programs have (C, h) and multiply from the right
  Weights projection(const Argument& map, int l, int head) const {
    return weights(map, s_.C, head_size(), l * s_.H + head).transposed();
  }
  Weights lm_head() const { return weights(a_.lm_head_multiplier, s_.V, s_.C); }
  Weights out_of_heads(int l) const { return weights(a_.sa_proj_multiplier, s_.C, s_.C, l); }
  Weights into_hidden(int l) const {
    return weights(a_.feed_forward_multiplier, hidden_size_, s_.C, l);
  }
  Weights out_of_hidden(int l) const {
    return weights(a_.feed_forward_proj_multiplier, s_.C, hidden_size_, l);
  }
  Matrix attention_mask(int l, int head) const {
    return weights(a_.attention_mask, s_.block_size, s_.block_size, l * s_.H + head).value;
  }
  /// A matrix of an argument that is one, or an array of them
  Weights weights(const Argument& argument, int rows, int columns, int index = 0) const {
    const Argument item = argument.item(index, rows * columns);
    const Matrix value = s_.by_rows ? Matrix{item.value, columns, 1} : Matrix{item.value, 1, rows};
    return {value, item.gradient};
  }
  Pack* of_head(Pack* a, int head) const { return a + head * head_size() * columns_; }

  void add(Pack* to, const Pack* stream) const {
    for (int i = 0; i < count(); ++i) {
      to[i] += stream[i];
    }
  }

  /// For each group of sequences, the offsets of its triangle and of the head's first row
  template <typename Visit>
  void for_each_group(int head, Visit visit) const {
    for (int g = 0; g < groups_; ++g) {
      visit((head * groups_ + g) * triangle_size(s_.T), head * head_size() * columns_ + g * s_.T);
    }
  }

  template <typename Visit>
  void for_each_token(int first, int last, Visit visit) const {
    for (int g = 0; g < groups_; ++g) {
      for (int lane = 0; lane < PACK_SIZE; ++lane) {
        const int sequence = first + g * PACK_SIZE + lane;
        const int kept = std::min(sequence, last - 1);
        for (int t = 0; t < s_.T; ++t) {
          visit(g * s_.T + t, lane, kept * s_.T + t, sequence >= last);
        }
      }
    }
  }

  const gptbayes_sizes& s_;
  const Arguments& a_;
  int groups_, columns_, hidden_size_;
  std::vector<Block> blocks_;
  std::vector<int> x_, y_;
  Norm final_;
  Pack *weight_, *log_lik_, *largest_, *total_, *embedded_, *logits_;
  Pack *d_stream_, *d_read_, *d_out_, *d_heads_, *d_q_, *d_k_, *d_v_, *d_hidden_, *d_weights_;
  Pack* work_;  // see `outer_product`
  std::size_t size_;
};

/// Memory that a thread keeps from one gradient to the next, because allocation is slow.
Pack* memory_of(std::size_t count) {
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  static thread_local std::unique_ptr<Pack, Free> memory;
  static thread_local std::size_t size = 0;
  if (count > size) {
    memory.reset(static_cast<Pack*>(std::aligned_alloc(sizeof(Pack), count * sizeof(Pack))));
    size = memory ? count : 0;
  }
  return memory.get();
}

/// The number of groups of sequences that fit into the cache together.
int groups_in_tile(const gptbayes_sizes& sizes, const Arguments& arguments) {
  const std::size_t bytes = Tile(sizes, arguments, 1, nullptr).size() * sizeof(Pack);
  const int all_groups = (sizes.B + PACK_SIZE - 1) / PACK_SIZE;
  const int fitting = std::max(1, int(TILE_BYTES / bytes));
  const int tiles = (all_groups + fitting - 1) / fitting;
  return (all_groups + tiles - 1) / tiles;
}

}  // namespace
}  // namespace gptbayes

int gptbayes_log_likelihood(const gptbayes_sizes* sizes, const int* x, const int* y,
                            const double* const* arguments, const double* weights,
                            double* log_lik, double* const* gradients) {
  using namespace gptbayes;
  const Arguments named(sizes->stage, arguments, gradients);
  const int groups = groups_in_tile(*sizes, named);
  Pack* memory = memory_of(Tile(*sizes, named, groups, nullptr).size());
  if (!memory) {
    return 1;
  }
  Tile tile(*sizes, named, groups, memory);
  for (int first = 0; first < sizes->B; first += groups * PACK_SIZE) {
    const int last = std::min(sizes->B, first + groups * PACK_SIZE);
    tile.read(x, y, weights, first, last);
    tile.forward();
    tile.write(log_lik, first, last);
    if (gradients) {
      tile.reverse();
    }
  }
  return 0;
}
