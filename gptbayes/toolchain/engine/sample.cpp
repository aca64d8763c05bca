// Sampling: NUTS and static HMC with three metrics, each with or without adaptation, and draws at
// constant parameters. All in one file, because the services share most of their templates: in
// three files they take twice as long to compile.

#include "run.hpp"

#include <stan/services/sample/fixed_param.hpp>
#include <stan/services/sample/hmc_nuts_dense_e.hpp>
#include <stan/services/sample/hmc_nuts_dense_e_adapt.hpp>
#include <stan/services/sample/hmc_nuts_diag_e.hpp>
#include <stan/services/sample/hmc_nuts_diag_e_adapt.hpp>
#include <stan/services/sample/hmc_nuts_unit_e.hpp>
#include <stan/services/sample/hmc_nuts_unit_e_adapt.hpp>
#include <stan/services/sample/hmc_static_dense_e.hpp>
#include <stan/services/sample/hmc_static_dense_e_adapt.hpp>
#include <stan/services/sample/hmc_static_diag_e.hpp>
#include <stan/services/sample/hmc_static_diag_e_adapt.hpp>
#include <stan/services/sample/hmc_static_unit_e.hpp>
#include <stan/services/sample/hmc_static_unit_e_adapt.hpp>
#include <stan/services/util/create_unit_e_dense_inv_metric.hpp>
#include <stan/services/util/create_unit_e_diag_inv_metric.hpp>

#include <stdexcept>

namespace engine {
namespace {

namespace services = stan::services::sample;

/** The inverse metric each chain starts from: metric_file, or the identity. */
Contexts inverse_metrics(const Run& run, int chains) {
  const Argument& hmc = run.method.at("algorithm/hmc");
  const std::string path = hmc.text("metric_file");
  if (!path.empty()) {
    return read_each(read_metric, path, chains, static_cast<int>(run.id));
  }
  using stan::services::util::create_unit_e_dense_inv_metric;
  using stan::services::util::create_unit_e_diag_inv_metric;
  const size_t n = run.model.num_params_r();
  if (hmc.choice("metric") == "dense_e") {
    auto identity = create_unit_e_dense_inv_metric(n);
    return Contexts(chains, std::make_shared<decltype(identity)>(identity));
  }
  auto ones = create_unit_e_diag_inv_metric(n);
  return Contexts(chains, std::make_shared<decltype(ones)>(ones));
}

/** Where the adapted step size and metric of each chain go, if asked for. */
std::vector<JsonWriter> metric_writers(const Run& run, int chains) {
  const bool wanted = run.method.truth("adapt/save_metric");
  std::vector<JsonWriter> writers;
  for (const std::string& path : numbered(stem(run.output_file()) + ".json", "_metric", ".json",
                                          chains, static_cast<int>(run.id))) {
    writers.push_back(run.json(wanted ? path : ""));
  }
  return writers;
}

int sample_nuts(Run& run, const Contexts& inits,
                std::vector<stan::callbacks::writer>& init_writers) {
  const Argument& method = run.method;
  const Argument& hmc = method.at("algorithm/hmc");
  const Argument& adapt = method.at("adapt");
  const std::string metric = hmc.choice("metric");
  const size_t chains = inits.size();

  const int num_warmup = method.integer("num_warmup");
  const int num_samples = method.integer("num_samples");
  const int thin = method.integer("thin");
  const bool save_warmup = method.truth("save_warmup");
  const double stepsize = hmc.real("stepsize");
  const double jitter = hmc.real("stepsize_jitter");
  const int max_depth = hmc.integer("engine/nuts/max_depth");

  if (adapt.truth("engaged")) {
    const double delta = adapt.real("delta");
    const double gamma = adapt.real("gamma");
    const double kappa = adapt.real("kappa");
    const double t0 = adapt.real("t0");
    const unsigned int init_buffer = adapt.integer("init_buffer");
    const unsigned int term_buffer = adapt.integer("term_buffer");
    const unsigned int window = adapt.integer("window");
    std::vector<JsonWriter> metrics = metric_writers(run, static_cast<int>(chains));
    if (metric == "unit_e") {
      return services::hmc_nuts_unit_e_adapt(
          run.model, chains, inits, run.seed, run.id, run.init_radius, num_warmup, num_samples,
          thin, save_warmup, run.refresh, stepsize, jitter, max_depth, delta, gamma, kappa, t0,
          run.interrupt, run.logger, init_writers, run.output, run.diagnostics, metrics);
    }
    const Contexts start = inverse_metrics(run, static_cast<int>(chains));
    if (metric == "dense_e") {
      return services::hmc_nuts_dense_e_adapt(
          run.model, chains, inits, start, run.seed, run.id, run.init_radius, num_warmup,
          num_samples, thin, save_warmup, run.refresh, stepsize, jitter, max_depth, delta, gamma,
          kappa, t0, init_buffer, term_buffer, window, run.interrupt, run.logger, init_writers,
          run.output, run.diagnostics, metrics);
    }
    return services::hmc_nuts_diag_e_adapt(
        run.model, chains, inits, start, run.seed, run.id, run.init_radius, num_warmup,
        num_samples, thin, save_warmup, run.refresh, stepsize, jitter, max_depth, delta, gamma,
        kappa, t0, init_buffer, term_buffer, window, run.interrupt, run.logger, init_writers,
        run.output, run.diagnostics, metrics);
  }

  if (metric == "unit_e") {
    return services::hmc_nuts_unit_e(run.model, chains, inits, run.seed, run.id, run.init_radius,
                                     num_warmup, num_samples, thin, save_warmup, run.refresh,
                                     stepsize, jitter, max_depth, run.interrupt, run.logger,
                                     init_writers, run.output, run.diagnostics);
  }
  const Contexts start = inverse_metrics(run, static_cast<int>(chains));
  if (metric == "dense_e") {
    return services::hmc_nuts_dense_e(
        run.model, chains, inits, start, run.seed, run.id, run.init_radius, num_warmup,
        num_samples, thin, save_warmup, run.refresh, stepsize, jitter, max_depth, run.interrupt,
        run.logger, init_writers, run.output, run.diagnostics);
  }
  return services::hmc_nuts_diag_e(
      run.model, chains, inits, start, run.seed, run.id, run.init_radius, num_warmup, num_samples,
      thin, save_warmup, run.refresh, stepsize, jitter, max_depth, run.interrupt, run.logger,
      init_writers, run.output, run.diagnostics);
}

int sample_static(Run& run, const Contexts& inits) {
  const Argument& method = run.method;
  const Argument& hmc = method.at("algorithm/hmc");
  const Argument& adapt = method.at("adapt");
  const std::string metric = hmc.choice("metric");

  const int num_warmup = method.integer("num_warmup");
  const int num_samples = method.integer("num_samples");
  const int thin = method.integer("thin");
  const bool save_warmup = method.truth("save_warmup");
  const double stepsize = hmc.real("stepsize");
  const double jitter = hmc.real("stepsize_jitter");
  const double int_time = hmc.real("engine/static/int_time");
  stan::callbacks::writer init_writer;
  CsvWriter& output = run.output[0];
  CsvWriter& diagnostics = run.diagnostics[0];

  if (adapt.truth("engaged")) {
    const double delta = adapt.real("delta");
    const double gamma = adapt.real("gamma");
    const double kappa = adapt.real("kappa");
    const double t0 = adapt.real("t0");
    const unsigned int init_buffer = adapt.integer("init_buffer");
    const unsigned int term_buffer = adapt.integer("term_buffer");
    const unsigned int window = adapt.integer("window");
    if (metric == "unit_e") {
      return services::hmc_static_unit_e_adapt(
          run.model, *inits[0], run.seed, run.id, run.init_radius, num_warmup, num_samples, thin,
          save_warmup, run.refresh, stepsize, jitter, int_time, delta, gamma, kappa, t0,
          run.interrupt, run.logger, init_writer, output, diagnostics);
    }
    const Contexts start = inverse_metrics(run, 1);
    if (metric == "dense_e") {
      return services::hmc_static_dense_e_adapt(
          run.model, *inits[0], *start[0], run.seed, run.id, run.init_radius, num_warmup,
          num_samples, thin, save_warmup, run.refresh, stepsize, jitter, int_time, delta, gamma,
          kappa, t0, init_buffer, term_buffer, window, run.interrupt, run.logger, init_writer,
          output, diagnostics);
    }
    return services::hmc_static_diag_e_adapt(
        run.model, *inits[0], *start[0], run.seed, run.id, run.init_radius, num_warmup,
        num_samples, thin, save_warmup, run.refresh, stepsize, jitter, int_time, delta, gamma,
        kappa, t0, init_buffer, term_buffer, window, run.interrupt, run.logger, init_writer,
        output, diagnostics);
  }

  if (metric == "unit_e") {
    return services::hmc_static_unit_e(run.model, *inits[0], run.seed, run.id, run.init_radius,
                                       num_warmup, num_samples, thin, save_warmup, run.refresh,
                                       stepsize, jitter, int_time, run.interrupt, run.logger,
                                       init_writer, output, diagnostics);
  }
  const Contexts start = inverse_metrics(run, 1);
  if (metric == "dense_e") {
    return services::hmc_static_dense_e(
        run.model, *inits[0], *start[0], run.seed, run.id, run.init_radius, num_warmup,
        num_samples, thin, save_warmup, run.refresh, stepsize, jitter, int_time, run.interrupt,
        run.logger, init_writer, output, diagnostics);
  }
  return services::hmc_static_diag_e(
      run.model, *inits[0], *start[0], run.seed, run.id, run.init_radius, num_warmup, num_samples,
      thin, save_warmup, run.refresh, stepsize, jitter, int_time, run.interrupt, run.logger,
      init_writer, output, diagnostics);
}

}  // namespace

int sample(Run& run) {
  const Argument& method = run.method;
  const int chains = run.chains();
  const bool fixed = method.choice("algorithm") == "fixed_param";
  const Contexts inits = run.inits(chains);
  std::vector<stan::callbacks::writer> init_writers(chains);

  if (fixed || run.model.num_params_r() == 0) {
    if (!fixed) {
      run.logger.info(
          "Model contains no parameters, running fixed_param sampler, no updates to Markov chain");
    }
    return services::fixed_param(
        run.model, chains, inits, run.seed, run.id, run.init_radius,
        method.integer("num_samples"), method.integer("thin"), run.refresh, run.interrupt,
        run.logger, init_writers, run.output, run.diagnostics);
  }
  if (method.truth("adapt/engaged") && method.integer("num_warmup") == 0) {
    throw std::invalid_argument(
        "The number of warmup samples (num_warmup) must be greater than zero if adaptation is "
        "enabled.");
  }
  if (method.choice("algorithm/hmc/engine") == "nuts") {
    return sample_nuts(run, inits, init_writers);
  }
  if (chains > 1) {
    throw std::invalid_argument(
        "Argument 'num_chains' is unavailable for the 'static' HMC engine.");
  }
  return sample_static(run, inits);
}

}  // namespace engine
