#include "run.hpp"

#include <stan/services/optimize/bfgs.hpp>
#include <stan/services/optimize/laplace_sample.hpp>
#include <stan/services/optimize/lbfgs.hpp>
#include <stan/services/optimize/newton.hpp>

#include <algorithm>
#include <stdexcept>

namespace engine {
namespace {

template <bool jacobian>
int optimize_with(Run& run) {
  namespace services = stan::services::optimize;
  const Argument& method = run.method;
  const std::string algorithm = method.choice("algorithm");
  const Argument& options = method.at("algorithm/" + algorithm);
  const int iterations = method.integer("iter");
  const bool save_iterations = method.truth("save_iterations");
  const Contexts inits = run.inits(1);
  stan::callbacks::writer init_writer;

  if (algorithm == "newton") {
    return services::newton<Model, jacobian>(run.model, *inits[0], run.seed, run.id,
                                             run.init_radius, iterations, save_iterations,
                                             run.interrupt, run.logger, init_writer,
                                             run.output[0]);
  }
  const double init_alpha = options.real("init_alpha");
  const double tol_obj = options.real("tol_obj");
  const double tol_rel_obj = options.real("tol_rel_obj");
  const double tol_grad = options.real("tol_grad");
  const double tol_rel_grad = options.real("tol_rel_grad");
  const double tol_param = options.real("tol_param");
  if (algorithm == "bfgs") {
    return services::bfgs<Model, jacobian>(
        run.model, *inits[0], run.seed, run.id, run.init_radius, init_alpha, tol_obj, tol_rel_obj,
        tol_grad, tol_rel_grad, tol_param, iterations, save_iterations, run.refresh, run.interrupt,
        run.logger, init_writer, run.output[0]);
  }
  return services::lbfgs<Model, jacobian>(
      run.model, *inits[0], run.seed, run.id, run.init_radius, options.integer("history_size"),
      init_alpha, tol_obj, tol_rel_obj, tol_grad, tol_rel_grad, tol_param, iterations,
      save_iterations, run.refresh, run.interrupt, run.logger, init_writer, run.output[0]);
}

/** The mode on the unconstrained scale, from the optimizer's CSV (its last row) or from JSON. */
Eigen::VectorXd read_mode(const Run& run, const std::string& path) {
  std::vector<double> mode;
  if (extension(path) == ".csv") {
    const Table table = read_csv(path);
    const bool optimized
        = std::any_of(table.comments.begin(), table.comments.end(), [](const std::string& line) {
            return line.find("method = optimize") != std::string::npos;
          });
    if (!optimized) {
      throw std::invalid_argument("CSV file is not output from Stan optimization");
    }
    const auto rows = unconstrained_rows(run.model, path);
    if (rows.empty()) {
      throw std::invalid_argument("CSV file is incomplete, expecting a row of parameters: "
                                  + path);
    }
    mode = rows.back();
  } else if (extension(path) == ".json") {
    mode = unconstrained_variables(run.model, path);
  } else {
    throw std::invalid_argument("Mode file must be CSV or JSON, found " + path);
  }
  return Eigen::Map<Eigen::VectorXd>(mode.data(), static_cast<Eigen::Index>(mode.size()));
}

template <bool jacobian>
int laplace_with(Run& run, const Eigen::VectorXd& mode) {
  JsonWriter hessian = run.json(run.arguments.text("output/diagnostic_file"));
  return stan::services::laplace_sample<jacobian>(
      run.model, mode, run.method.integer("draws"), run.method.truth("calculate_lp"), run.seed,
      run.refresh, run.interrupt, run.logger, run.output[0], hessian);
}

}  // namespace

int optimize(Run& run) {
  return run.method.truth("jacobian") ? optimize_with<true>(run) : optimize_with<false>(run);
}

int laplace(Run& run) {
  const Eigen::VectorXd mode = read_mode(run, run.method.text("mode"));
  return run.method.truth("jacobian") ? laplace_with<true>(run, mode)
                                      : laplace_with<false>(run, mode);
}

}  // namespace engine
