// All stages at odd sizes, for the sanitizers: every array has exactly the length that it needs.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "gpt.h"

static double next_number() {
  static unsigned state = 1;
  state = state * 1664525u + 1013904223u;
  return state / 4294967296.0 - 0.5;
}

/// The length of an argument, and whether it has a gradient.
struct Length {
  std::size_t count;
  bool has_gradient;
};

static std::vector<Length> lengths(const gptbayes_sizes& s) {
  const std::size_t V = s.V, block_size = s.block_size, C = s.C, H = s.H, L = s.L;
  const std::size_t h = C / H, F = s.stage >= 8 ? 4 * C : C;
  std::vector<Length> found;
#define GPTBAYES_ARGUMENT(since, name, has_gradient, items, rows, columns) \
  if (s.stage >= since) {                                                  \
    found.push_back({(items) * (rows) * (columns), has_gradient == 1});    \
  }
#include "arguments.inc"
#undef GPTBAYES_ARGUMENT
  return found;
}

static bool runs(gptbayes_sizes s) {
  std::vector<std::vector<double>> values, gradients;
  std::vector<const double*> value_of;
  std::vector<double*> gradient_of;
  for (const Length& length : lengths(s)) {
    values.emplace_back(length.count);
    for (double& value : values.back()) {
      value = next_number();
    }
    gradients.emplace_back(length.has_gradient ? length.count : 0);
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    value_of.push_back(values[i].data());
    gradient_of.push_back(gradients[i].empty() ? nullptr : gradients[i].data());
  }
  const int n = s.B * s.T;
  std::vector<int> x(n), y(n);
  for (int i = 0; i < n; ++i) {
    x[i] = (7 * i) % s.V;
    y[i] = (3 * i + 1) % s.V;
  }
  std::vector<double> weights(n, 1.0), log_lik(n, 1.0);
  for (double* const* wanted : {static_cast<double* const*>(gradient_of.data()),
                                static_cast<double* const*>(nullptr)}) {
    if (gptbayes_log_likelihood(&s, x.data(), y.data(), value_of.data(), weights.data(),
                                log_lik.data(), wanted)
        != 0) {
      return false;
    }
    for (const double each : log_lik) {
      if (!(each < 0) || !std::isfinite(each)) {
        return false;
      }
    }
  }
  return true;
}

int main() {
  const int shapes[][6] = {  // block_size, T, C, H, L, B
      {5, 5, 6, 3, 2, 11}, {1, 1, 2, 1, 1, 1}, {9, 4, 14, 7, 1, 9},
      {3, 3, 5, 1, 3, 16}, {13, 13, 4, 2, 2, 3}, {2, 2, 62, 2, 1, 130}};
  int stages = 0;
  for (int stage = 1; stage <= 12; ++stage, ++stages) {
    for (const auto& shape : shapes) {
      const int V = stage == 1 ? shape[2] : 7;
      const bool heads = stage >= 5, blocks = stage >= 10;
      const int T = stage < 3 ? shape[0] : shape[1];  // without positions any length will do
      for (const int by_rows : {0, 1}) {
        if (!runs({stage, V, shape[0], shape[2], heads ? shape[3] : 1, blocks ? shape[4] : 1,
                   shape[5], T, by_rows})) {
          std::fprintf(stderr, "stage %d: not finite, or no memory\n", stage);
          return 1;
        }
      }
    }
  }
  std::printf("%d stages\n", stages);
  return 0;
}
