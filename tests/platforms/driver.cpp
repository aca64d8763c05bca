// The kernels as a program: what it is asked comes in by standard input, in binary, so that kernels
// compiled for another machine can be called from this one, through an emulator.
//
//   driver lengths < sizes             lines of "count has_gradient", one for each argument
//   driver evaluate < sizes, wanted, x, y, arguments, weights    > status, log_lik, gradients

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "gpt.h"

struct Length {
  std::size_t count;
  bool has_gradient;
};

static std::vector<Length> lengths(const gptbayes_sizes& s) {
  const std::size_t V = s.V, block_size = s.block_size, C = s.C, H = s.H, L = s.L;
  const std::size_t h = C / H, F = s.stage >= 8 ? 4 * C : C;
  (void)V, (void)block_size, (void)h, (void)F;
  std::vector<Length> found;
#define GPTBAYES_ARGUMENT(since, name, has_gradient, items, rows, columns) \
  if (s.stage >= since) {                                                  \
    found.push_back({(items) * (rows) * (columns), has_gradient == 1});    \
  }
#include "arguments.inc"
#undef GPTBAYES_ARGUMENT
  return found;
}

template <typename T>
static std::vector<T> read(std::size_t count) {
  std::vector<T> values(count);
  if (std::fread(values.data(), sizeof(T), count, stdin) != count) {
    std::fprintf(stderr, "too little to read\n");
    std::exit(2);
  }
  return values;
}

static void write(const std::vector<double>& values) {
  std::fwrite(values.data(), sizeof(double), values.size(), stdout);
}

int main(int argc, char** argv) {
  const gptbayes_sizes sizes = read<gptbayes_sizes>(1)[0];
  if (argc == 2 && std::strcmp(argv[1], "lengths") == 0) {
    for (const Length& each : lengths(sizes)) {
      std::printf("%zu %d\n", each.count, each.has_gradient);
    }
    return 0;
  }
  const bool wanted = read<int>(1)[0] != 0;
  const std::size_t n = static_cast<std::size_t>(sizes.B) * sizes.T;
  const std::vector<int> x = read<int>(n), y = read<int>(n);
  std::vector<std::vector<double>> values, gradients;
  for (const Length& each : lengths(sizes)) {
    values.push_back(read<double>(each.count));
    gradients.emplace_back(each.has_gradient ? each.count : 0);
  }
  const std::vector<double> weights = read<double>(n);
  std::vector<const double*> value_of;
  std::vector<double*> gradient_of;
  for (std::size_t i = 0; i < values.size(); ++i) {
    value_of.push_back(values[i].data());
    gradient_of.push_back(gradients[i].empty() ? nullptr : gradients[i].data());
  }
  std::vector<double> log_lik(n);
  const double status = gptbayes_log_likelihood(&sizes, x.data(), y.data(), value_of.data(),
                                                weights.data(), log_lik.data(),
                                                wanted ? gradient_of.data() : nullptr);
  write({status});
  write(log_lik);
  if (wanted) {
    for (const std::vector<double>& each : gradients) {
      write(each);
    }
  }
  return 0;
}
