// The bricks of a GPT, each with its reverse pass: the names are those of stan/functions/.
//
// An activation is `Lanes a[feature][column]`. A column is one position of LANES sequences: all
// positions of the first LANES sequences, then all of the next. A reverse pass is given `d_out`,
// the derivative of the log likelihood by what the brick put out, and finds `d_in`; what it finds
// for weights it adds to `gradient`.

#ifndef GPTBAYES_BRICKS_HPP
#define GPTBAYES_BRICKS_HPP

#include <cmath>

#include "lanes.hpp"

namespace gptbayes {

// ---- a linear map of every token ----

/// A matrix of weights and where its gradient goes.
struct Weights {
  Matrix value;
  double* gradient;

  /// Element (row, column) of a matrix that Stan keeps column by column.
  static Weights by_columns(const double* value, double* gradient, int rows) {
    return {{value, 1, rows}, gradient};
  }
  Weights transposed() const { return {value.transposed(), gradient}; }
};

/// out = A in + b
inline void linear(Lanes* out, Weights A, const double* b, const Lanes* in, int rows, int inner,
                   int columns) {
  product(out, A.value, b, in, rows, inner, columns);
}

/// d_in (+)= A' d_out; A.gradient += d_out in'; b_gradient += sum of d_out
inline void linear_reverse(Lanes* d_in, bool add, Weights A, double* b_gradient,
                           const Lanes* d_out, const Lanes* in, int rows, int inner, int columns) {
  outer_product(A.gradient, A.value.row_stride, A.value.column_stride, d_out, in, rows, inner,
                columns);
  if (b_gradient) {
    row_sums(b_gradient, d_out, rows, columns);
  }
  product(d_in, A.value.transposed(), nullptr, d_out, inner, rows, columns, add);
}

// ---- layer norm ----

/// @param unit the stream with mean 0 and sd 1 (divisor C - 1), kept for the way back
/// @param inverse_sd of each column, kept for the way back
inline void layer_norm(Lanes* out, Lanes* unit, Lanes* inverse_sd, const Lanes* stream,
                       const double* weight, const double* bias, int C, int columns) {
  for (int n = 0; n < columns; ++n) {
    Lanes total = {};
    for (int c = 0; c < C; ++c) {
      total += stream[c * columns + n];
    }
    const Lanes mean = total / C;
    Lanes squares = {};
    for (int c = 0; c < C; ++c) {
      const Lanes centred = stream[c * columns + n] - mean;
      unit[c * columns + n] = centred;
      squares += centred * centred;
    }
    for (int lane = 0; lane < LANES; ++lane) {
      inverse_sd[n][lane] = 1 / std::sqrt(squares[lane] / (C - 1));
    }
    for (int c = 0; c < C; ++c) {
      unit[c * columns + n] *= inverse_sd[n];
      out[c * columns + n] = unit[c * columns + n] * weight[c] + bias[c];
    }
  }
}

/// d_stream += what goes back through the norm
inline void layer_norm_reverse(Lanes* d_stream, double* weight_gradient, double* bias_gradient,
                               const Lanes* d_out, const Lanes* unit, const Lanes* inverse_sd,
                               const double* weight, int C, int columns) {
  for (int c = 0; c < C; ++c) {
    Lanes to_weight = {}, to_bias = {};
    for (int n = 0; n < columns; ++n) {
      to_weight += d_out[c * columns + n] * unit[c * columns + n];
      to_bias += d_out[c * columns + n];
    }
    weight_gradient[c] += sum(to_weight);
    bias_gradient[c] += sum(to_bias);
  }
  for (int n = 0; n < columns; ++n) {
    Lanes total = {}, along = {};
    for (int c = 0; c < C; ++c) {
      const Lanes d_unit = d_out[c * columns + n] * weight[c];
      total += d_unit;
      along += d_unit * unit[c * columns + n];
    }
    const Lanes mean = total / C, share = along / (C - 1);
    for (int c = 0; c < C; ++c) {
      const Lanes d_unit = d_out[c * columns + n] * weight[c];
      d_stream[c * columns + n] += inverse_sd[n] * (d_unit - mean - unit[c * columns + n] * share);
    }
  }
}

// ---- causal attention, one head in LANES sequences ----
//
// Weights of query position t and key positions s <= t are one row of a triangle. Three products
// on that triangle are all there is, forward and back.

constexpr int SIDE_BY_SIDE = 8;  // sums that are kept in registers

inline int triangle_size(int T) { return T * (T + 1) / 2; }

/// w(t, s) = sum over j of a(j, t) b(j, s)
inline void triangle(Lanes* w, const Lanes* a, const Lanes* b, int T, int h, int columns) {
  for (int t = 0; t < T; w += ++t) {
    in_blocks<SIDE_BY_SIDE>(t + 1, [&](int s, auto S) {
      Lanes sums[S.value] = {};
      for (int j = 0; j < h; ++j) {
        for (int i = 0; i < S.value; ++i) {
          sums[i] += a[j * columns + t] * b[j * columns + s + i];
        }
      }
      for (int i = 0; i < S.value; ++i) {
        w[s + i] = sums[i];
      }
    });
  }
}

/// out(j, t) = sum over s <= t of w(t, s) b(j, s)
inline void look_back(Lanes* out, const Lanes* w, const Lanes* b, int T, int h, int columns) {
  for (int t = 0; t < T; w += ++t) {
    in_blocks<SIDE_BY_SIDE>(h, [&](int j, auto S) {
      Lanes sums[S.value] = {};
      for (int s = 0; s <= t; ++s) {
        for (int i = 0; i < S.value; ++i) {
          sums[i] += w[s] * b[(j + i) * columns + s];
        }
      }
      for (int i = 0; i < S.value; ++i) {
        out[(j + i) * columns + t] = sums[i];
      }
    });
  }
}

/// out(j, s) = sum over t >= s of w(t, s) b(j, t)
inline void look_ahead(Lanes* out, const Lanes* w, const Lanes* b, int T, int h, int columns) {
  for (int s = 0; s < T; ++s) {
    in_blocks<SIDE_BY_SIDE>(h, [&](int j, auto S) {
      Lanes sums[S.value] = {};
      for (int t = s; t < T; ++t) {
        const Lanes weight = w[triangle_size(t) + s];
        for (int i = 0; i < S.value; ++i) {
          sums[i] += weight * b[(j + i) * columns + t];
        }
      }
      for (int i = 0; i < S.value; ++i) {
        out[(j + i) * columns + s] = sums[i];
      }
    });
  }
}

/// weights = softmax(q'k / sqrt(h)) over the positions up to each
inline void attention_weights(Lanes* weights, const Lanes* q, const Lanes* k, int T, int h,
                              int columns) {
  triangle(weights, q, k, T, h, columns);
  const double scale = 1 / std::sqrt(h);
  for (int t = 0; t < T; weights += ++t) {
    Lanes largest = weights[0];
    for (int s = 1; s <= t; ++s) {
      largest = larger(largest, weights[s]);
    }
    Lanes total = {};
    for (int s = 0; s <= t; ++s) {
      weights[s] = exp_of_nonpositive((weights[s] - largest) * scale);
      total += weights[s];
    }
    const Lanes inverse = 1.0 / total;
    for (int s = 0; s <= t; ++s) {
      weights[s] *= inverse;
    }
  }
}

/// From the derivative by the weights to that by q'k, in place
inline void attention_weights_reverse(Lanes* d, const Lanes* weights, int T, int h) {
  const double scale = 1 / std::sqrt(h);
  for (int t = 0; t < T; d += t + 1, weights += t + 1, ++t) {
    Lanes mean = {};
    for (int s = 0; s <= t; ++s) {
      mean += weights[s] * d[s];
    }
    for (int s = 0; s <= t; ++s) {
      d[s] = weights[s] * (d[s] - mean) * scale;
    }
  }
}

/// out = weights .* mask
inline void drop_weights(Lanes* out, const Lanes* weights, Matrix mask, int T) {
  for (int t = 0; t < T; out += t + 1, weights += t + 1, ++t) {
    for (int s = 0; s <= t; ++s) {
      out[s] = weights[s] * mask(t, s);
    }
  }
}

// ---- what is done to every number ----

/// Only the positive part passes. What does not pass becomes -0, so that the way back can tell it
/// from a 0 that passed, as Stan's fmax(x, 0) lets it.
inline void positive_part(Lanes* a, int count) {
  for (int i = 0; i < count; ++i) {
    a[i] = a[i] >= 0.0 ? a[i] + 0.0 : all(-0.0);
  }
}

inline void positive_part_reverse(Lanes* d, const Lanes* a, int count) {
  for (int i = 0; i < count; ++i) {
    d[i] = ((Bits)a[i] >> 63) == 0 ? d[i] : Lanes{};
  }
}

/// Each row times its entry of the mask
inline void drop(Lanes* a, const double* mask, int C, int columns) {
  for (int c = 0; c < C; ++c) {
    for (int n = 0; n < columns; ++n) {
      a[c * columns + n] *= mask[c];
    }
  }
}

// ---- the likelihood ----

/// From logits to the derivative of the weighted log likelihood by them, in place.
///
/// @param logits (V, columns)
/// @param next_token, weight of each column and lane; 0-based tokens
/// @param log_lik of each column and lane, in nats
/// @param largest, total work space, one per column
inline void token_log_likelihood(Lanes* logits, const int* next_token, const Lanes* weight,
                                 Lanes* log_lik, Lanes* largest, Lanes* total, int V,
                                 int columns) {
  for (int n = 0; n < columns; ++n) {
    largest[n] = logits[n];
    total[n] = Lanes{};
    for (int lane = 0; lane < LANES; ++lane) {
      log_lik[n][lane] = logits[next_token[n * LANES + lane] * columns + n][lane];
    }
  }
  for (int v = 1; v < V; ++v) {
    for (int n = 0; n < columns; ++n) {
      largest[n] = larger(largest[n], logits[v * columns + n]);
    }
  }
  for (int v = 0; v < V; ++v) {
    for (int n = 0; n < columns; ++n) {
      Lanes& p = logits[v * columns + n];
      p = exp_of_nonpositive(p - largest[n]);
      total[n] += p;
    }
  }
  for (int n = 0; n < columns; ++n) {
    for (int lane = 0; lane < LANES; ++lane) {
      log_lik[n][lane] -= largest[n][lane] + std::log(total[n][lane]);
    }
    total[n] = -weight[n] / total[n];
  }
  for (int v = 0; v < V; ++v) {
    for (int n = 0; n < columns; ++n) {
      logits[v * columns + n] *= total[n];
    }
  }
  for (int n = 0; n < columns; ++n) {
    for (int lane = 0; lane < LANES; ++lane) {
      logits[next_token[n * LANES + lane] * columns + n][lane] += weight[n][lane];
    }
  }
}

}  // namespace gptbayes

#endif
