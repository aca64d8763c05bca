#include "run.hpp"

#include <stan/services/pathfinder/multi.hpp>
#include <stan/services/pathfinder/single.hpp>

namespace engine {
namespace {

/** Where the iterations of a lone path go. */
std::string iterations_file(const Run& run) {
  const std::string asked = run.arguments.text("output/diagnostic_file");
  if (!asked.empty()) {
    return numbered(asked, "", ".json", 1, 1).front();
  }
  return run.method.truth("save_single_paths") ? stem(run.output_file()) + ".json" : "";
}

}  // namespace

int pathfinder(Run& run) {
  namespace services = stan::services::pathfinder;
  const Argument& method = run.method;
  const int paths = method.integer("num_paths");
  const int draws = method.integer("num_draws");
  const int psis_draws = method.integer("num_psis_draws");
  const int elbo_draws = method.integer("num_elbo_draws");
  const int iterations = method.integer("max_lbfgs_iters");
  const int history_size = method.integer("history_size");
  const double init_alpha = method.real("init_alpha");
  const double tol_obj = method.real("tol_obj");
  const double tol_rel_obj = method.real("tol_rel_obj");
  const double tol_grad = method.real("tol_grad");
  const double tol_rel_grad = method.real("tol_rel_grad");
  const double tol_param = method.real("tol_param");
  const bool save_paths = method.truth("save_single_paths");
  const bool calculate_lp = method.truth("calculate_lp");
  const bool resample = method.truth("psis_resample");
  const Contexts inits = run.inits(paths);

  if (psis_draws > draws * paths && resample && calculate_lp) {
    run.logger.info(
        "Warning: Number of PSIS draws is larger than the total number of draws returned by the "
        "single Pathfinders. This is likely unintentional and leads to re-sampling from the same "
        "draws.");
  }
  if (paths == 1) {
    stan::callbacks::writer init_writer;
    JsonWriter diagnostics = run.json(iterations_file(run));
    return services::pathfinder_lbfgs_single<false>(
        run.model, *inits[0], run.seed, run.id, run.init_radius, history_size, init_alpha, tol_obj,
        tol_rel_obj, tol_grad, tol_rel_grad, tol_param, iterations, elbo_draws, draws, save_paths,
        run.refresh, run.interrupt, run.logger, init_writer, run.output[0], diagnostics,
        calculate_lp);
  }

  std::vector<stan::callbacks::writer> init_writers(paths);
  std::vector<CsvWriter> path_draws;
  std::vector<JsonWriter> path_iterations;
  for (const std::string& path : numbered(stem(run.output_file()) + ".csv", "_path", ".csv", paths,
                                          static_cast<int>(run.id))) {
    path_draws.push_back(save_paths ? run.csv(path) : CsvWriter(nullptr, "# "));
    path_iterations.push_back(run.json(save_paths ? stem(path) + ".json" : ""));
  }
  JsonWriter diagnostics;
  return services::pathfinder_lbfgs_multi(
      run.model, inits, run.seed, run.id, run.init_radius, history_size, init_alpha, tol_obj,
      tol_rel_obj, tol_grad, tol_rel_grad, tol_param, iterations, elbo_draws, draws, psis_draws,
      paths, save_paths, run.refresh, run.interrupt, run.logger, init_writers, path_draws,
      path_iterations, run.output[0], diagnostics, calculate_lp, resample);
}

}  // namespace engine
