// The components of a GPT, each with its reverse pass, named as in stan/functions/.
//
// An activation is `Pack a[feature][column]`. A column is one position of PACK_SIZE sequences: all
// positions of the first PACK_SIZE sequences, then all positions of the next. A reverse pass takes
// `d_out`, the derivative of the log likelihood with respect to the output, and computes `d_in`,
// the derivative with respect to the input. It adds the derivatives of weights to `gradient`.

#ifndef GPTBAYES_BRICKS_HPP
#define GPTBAYES_BRICKS_HPP

#include <cmath>

#include "pack.hpp"

namespace gptbayes {

constexpr int SIDE_BY_SIDE = 8;  // sums in registers at a time

// ---- a linear map of every token ----

/// A matrix of weights and where its gradient goes.
struct Weights {
  Matrix value;
  double* gradient;

  Weights transposed() const { return {value.transposed(), gradient}; }
};

/// out = A in + b
inline void linear(Pack* out, Weights A, const double* b, const Pack* in, int rows, int inner,
                   int columns) {
  product(out, A.value, b, in, rows, inner, columns);
}

/// d_in (+)= A' d_out; A.gradient += d_out in'; b_gradient += sum of d_out
///
/// @param work space for `outer_product`
inline void linear_reverse(Pack* d_in, bool add, Weights A, double* b_gradient,
                           const Pack* d_out, const Pack* in, int rows, int inner, int columns,
                           Pack* work) {
  outer_product(A.gradient, A.value.row_stride, A.value.column_stride, d_out, in, rows, inner,
                columns, work);
  if (b_gradient) {
    row_sums(b_gradient, d_out, rows, columns);
  }
  product(d_in, A.value.transposed(), nullptr, d_out, inner, rows, columns, add);
}

// ---- layer norm ----

/// @param unit the input with mean 0 and sd 1 (divisor C - 1), stored for the reverse pass
/// @param inverse_sd of each column, stored for the reverse pass
inline void layer_norm(Pack* out, Pack* unit, Pack* inverse_sd, const Pack* stream,
                       const double* weight, const double* bias, int C, int columns) {
  in_blocks<SIDE_BY_SIDE>(columns, [&](int n, auto S) {
    Pack mean[S.value] = {}, squares[S.value] = {};
    for (int c = 0; c < C; ++c) {
      for (int i = 0; i < S.value; ++i) {
        mean[i] += stream[c * columns + n + i];
      }
    }
    for (int i = 0; i < S.value; ++i) {
      mean[i] /= C;
    }
    for (int c = 0; c < C; ++c) {
      for (int i = 0; i < S.value; ++i) {
        const Pack centred = stream[c * columns + n + i] - mean[i];
        squares[i] += centred * centred;
      }
    }
    for (int i = 0; i < S.value; ++i) {
      for (int lane = 0; lane < PACK_SIZE; ++lane) {
        inverse_sd[n + i][lane] = 1 / std::sqrt(squares[i][lane] / (C - 1));
      }
    }
    for (int c = 0; c < C; ++c) {
      for (int i = 0; i < S.value; ++i) {
        const int at = c * columns + n + i;
        unit[at] = (stream[at] - mean[i]) * inverse_sd[n + i];
        out[at] = unit[at] * weight[c] + bias[c];
      }
    }
  });
}

/// d_stream += derivative with respect to the input
inline void layer_norm_reverse(Pack* d_stream, double* weight_gradient, double* bias_gradient,
                               const Pack* d_out, const Pack* unit, const Pack* inverse_sd,
                               const double* weight, int C, int columns) {
  for (int c = 0; c < C; ++c) {
    Pack to_weight = {}, to_bias = {};
    for (int n = 0; n < columns; ++n) {
      to_weight += d_out[c * columns + n] * unit[c * columns + n];
      to_bias += d_out[c * columns + n];
    }
    weight_gradient[c] += sum(to_weight);
    bias_gradient[c] += sum(to_bias);
  }
  in_blocks<SIDE_BY_SIDE>(columns, [&](int n, auto S) {
    Pack mean[S.value] = {}, share[S.value] = {};
    for (int c = 0; c < C; ++c) {
      for (int i = 0; i < S.value; ++i) {
        const Pack d_unit = d_out[c * columns + n + i] * weight[c];
        mean[i] += d_unit;
        share[i] += d_unit * unit[c * columns + n + i];
      }
    }
    for (int i = 0; i < S.value; ++i) {
      mean[i] /= C;
      share[i] /= C - 1;
    }
    for (int c = 0; c < C; ++c) {
      for (int i = 0; i < S.value; ++i) {
        const int at = c * columns + n + i;
        const Pack d_unit = d_out[at] * weight[c];
        d_stream[at] += inverse_sd[n + i] * (d_unit - mean[i] - unit[at] * share[i]);
      }
    }
  });
}

// ---- causal attention, one head in PACK_SIZE sequences ----
//
// The weights of query position t and key positions s <= t are one row of a triangle. Forward and
// reverse pass consist of the same three products with such triangles.

inline int triangle_size(int T) { return T * (T + 1) / 2; }

/// w(t, s) = sum over j of a(j, t) b(j, s)
inline void triangle(Pack* w, const Pack* a, const Pack* b, int T, int h, int columns) {
  for (int t = 0; t < T; w += ++t) {
    in_blocks<SIDE_BY_SIDE>(t + 1, [&](int s, auto S) {
      Pack sums[S.value] = {};
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
inline void weights_times_values(Pack* out, const Pack* w, const Pack* b, int T, int h,
                                 int columns) {
  for (int t = 0; t < T; w += ++t) {
    in_blocks<SIDE_BY_SIDE>(h, [&](int j, auto S) {
      Pack sums[S.value] = {};
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
inline void transposed_weights_times_values(Pack* out, const Pack* w, const Pack* b, int T, int h,
                                            int columns) {
  for (int s = 0; s < T; ++s) {
    in_blocks<SIDE_BY_SIDE>(h, [&](int j, auto S) {
      Pack sums[S.value] = {};
      for (int t = s; t < T; ++t) {
        const Pack weight = w[triangle_size(t) + s];
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
inline void attention_weights(Pack* weights, const Pack* q, const Pack* k, int T, int h,
                              int columns) {
  triangle(weights, q, k, T, h, columns);
  const double scale = 1 / std::sqrt(h);
  for (int t = 0; t < T; weights += ++t) {
    Pack largest = weights[0];
    for (int s = 1; s <= t; ++s) {
      largest = larger(largest, weights[s]);
    }
    Pack total = {};
    for (int s = 0; s <= t; ++s) {
      weights[s] = exp_of_nonpositive((weights[s] - largest) * scale);
      total += weights[s];
    }
    const Pack inverse = 1.0 / total;
    for (int s = 0; s <= t; ++s) {
      weights[s] *= inverse;
    }
  }
}

/// From the derivative with respect to the weights to that with respect to q'k, in place
inline void attention_weights_reverse(Pack* d, const Pack* weights, int T, int h) {
  const double scale = 1 / std::sqrt(h);
  for (int t = 0; t < T; d += t + 1, weights += t + 1, ++t) {
    Pack mean = {};
    for (int s = 0; s <= t; ++s) {
      mean += weights[s] * d[s];
    }
    for (int s = 0; s <= t; ++s) {
      d[s] = weights[s] * (d[s] - mean) * scale;
    }
  }
}

/// out = weights .* mask
inline void drop_weights(Pack* out, const Pack* weights, Matrix mask, int T) {
  for (int t = 0; t < T; out += t + 1, weights += t + 1, ++t) {
    for (int s = 0; s <= t; ++s) {
      out[s] = weights[s] * mask(t, s);
    }
  }
}

// ---- elementwise functions ----

/// max(a, 0). Negative numbers become -0, so that the reverse pass can distinguish them from an
/// input of 0, where Stan's fmax(x, 0) has slope 1.
inline void positive_part(Pack* a, int count) {
  for (int i = 0; i < count; ++i) {
    a[i] = a[i] >= 0.0 ? a[i] + 0.0 : all(-0.0);
  }
}

inline void positive_part_reverse(Pack* d, const Pack* a, int count) {
  for (int i = 0; i < count; ++i) {
    d[i] = ((Bits)a[i] >> 63) == 0 ? d[i] : Pack{};
  }
}

/// Each row times its entry of the mask
inline void drop(Pack* a, const double* mask, int C, int columns) {
  for (int c = 0; c < C; ++c) {
    for (int n = 0; n < columns; ++n) {
      a[c * columns + n] *= mask[c];
    }
  }
}

// ---- the likelihood ----

/// From logits to the derivative of the weighted log likelihood with respect to them, in place.
///
/// @param logits (V, columns)
/// @param next_token, weight of each column and lane; 0-based tokens
/// @param log_lik of each column and lane, in nats
/// @param largest, total work space, one per column
inline void token_log_likelihood(Pack* logits, const int* next_token, const Pack* weight,
                                 Pack* log_lik, Pack* largest, Pack* total, int V,
                                 int columns) {
  for (int n = 0; n < columns; ++n) {
    largest[n] = logits[n];
    total[n] = Pack{};
    for (int lane = 0; lane < PACK_SIZE; ++lane) {
      log_lik[n][lane] = logits[next_token[n * PACK_SIZE + lane] * columns + n][lane];
    }
  }
  for (int v = 1; v < V; ++v) {
    for (int n = 0; n < columns; ++n) {
      largest[n] = larger(largest[n], logits[v * columns + n]);
    }
  }
  for (int v = 0; v < V; ++v) {
    for (int n = 0; n < columns; ++n) {
      Pack& p = logits[v * columns + n];
      p = exp_of_nonpositive(p - largest[n]);
      total[n] += p;
    }
  }
  for (int n = 0; n < columns; ++n) {
    for (int lane = 0; lane < PACK_SIZE; ++lane) {
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
    for (int lane = 0; lane < PACK_SIZE; ++lane) {
      logits[next_token[n * PACK_SIZE + lane] * columns + n][lane] += weight[n][lane];
    }
  }
}

}  // namespace gptbayes

#endif
