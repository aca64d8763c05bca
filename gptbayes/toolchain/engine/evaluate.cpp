// Methods that evaluate the model at parameters given to them.

#include "run.hpp"

#include <stan/model/log_prob_grad.hpp>
#include <stan/services/diagnose/diagnose.hpp>
#include <stan/services/sample/standalone_gqs.hpp>

#include <algorithm>
#include <sstream>
#include <stdexcept>

namespace engine {
namespace {

[[noreturn]] void cannot_unconstrain(const std::exception& reason, const std::string& messages) {
  throw std::invalid_argument(std::string(reason.what())
                              + "\nBad or missing parameter values, cannot unconstrain."
                              + (messages.empty() ? "" : "\n\t" + messages));
}

/** Points of the unconstrained space from `params_r`: one vector, or an array of them. */
std::vector<std::vector<double>> unconstrained_points(const Model& model,
                                                      const std::string& path) {
  const Context variables = read_variables(path);
  const std::vector<double> values = variables->vals_r("params_r");
  if (values.empty()) {
    throw std::invalid_argument(
        "Unconstrained parameters file has no variable 'params_r' with unconstrained parameter "
        "values!");
  }
  const std::vector<size_t> dims = variables->dims_r("params_r");
  const size_t rows = dims.size() == 2 ? dims[0] : 1;
  const size_t columns = values.size() / rows;
  if (columns != model.num_params_r()) {
    throw std::invalid_argument("Incorrect number of unconstrained parameters provided! Model has "
                                + std::to_string(model.num_params_r()) + " parameters but "
                                + std::to_string(columns) + " were found.");
  }
  std::vector<std::vector<double>> points(rows, std::vector<double>(columns));
  for (size_t i = 0; i < rows; ++i) {
    for (size_t j = 0; j < columns; ++j) {
      points[i][j] = values[i + rows * j];  // a var_context is column-major
    }
  }
  return points;
}

template <bool jacobian>
void write_log_prob(Run& run, std::vector<std::vector<double>>& points) {
  std::vector<int> no_integers;
  std::vector<double> gradient;
  for (std::vector<double>& point : points) {
    std::stringstream messages;
    const double lp = stan::model::log_prob_grad<true, jacobian>(run.model, point, no_integers,
                                                                 gradient, &messages);
    if (!messages.str().empty()) {
      run.logger.info(messages);
    }
    std::vector<double> row{lp};
    row.insert(row.end(), gradient.begin(), gradient.end());
    run.output[0](row);
  }
}

}  // namespace

Eigen::MatrixXd parameter_columns(const Model& model, const std::string& path) {
  std::vector<std::string> names;
  model.constrained_param_names(names, false, false);
  const Table table = read_csv(path);
  const size_t offset = table.offset();
  const bool fits = offset + names.size() <= table.names.size()
                    && std::equal(names.begin(), names.end(), table.names.begin() + offset);
  if (!fits) {
    throw std::invalid_argument("Mismatch between model and fitted_parameters csv file \"" + path
                                + "\"");
  }
  Eigen::MatrixXd draws(table.rows.size(), names.size());
  for (size_t i = 0; i < table.rows.size(); ++i) {
    for (size_t j = 0; j < names.size(); ++j) {
      draws(i, j) = table.rows[i][offset + j];
    }
  }
  return draws;
}

std::vector<std::vector<double>> unconstrained_rows(const Model& model, const std::string& path) {
  const Eigen::MatrixXd draws = parameter_columns(model, path);
  std::vector<std::vector<double>> points;
  for (Eigen::Index i = 0; i < draws.rows(); ++i) {
    std::vector<double> constrained(draws.cols());
    Eigen::VectorXd::Map(constrained.data(), draws.cols()) = draws.row(i);
    std::vector<double> unconstrained;
    std::stringstream messages;
    try {
      model.unconstrain_array(constrained, unconstrained, &messages);
    } catch (const std::exception& e) {
      cannot_unconstrain(e, messages.str());
    }
    points.push_back(std::move(unconstrained));
  }
  return points;
}

std::vector<double> unconstrained_variables(const Model& model, const std::string& path) {
  const Context variables = read_variables(path);
  std::vector<double> unconstrained(model.num_params_r());
  std::vector<int> no_integers;
  std::stringstream messages;
  try {
    model.transform_inits(*variables, no_integers, unconstrained, &messages);
  } catch (const std::exception& e) {
    cannot_unconstrain(e, messages.str());
  }
  return unconstrained;
}

int generate_quantities(Run& run) {
  const std::string path = run.method.text("fitted_params");
  const int chains = run.chains();
  std::vector<Eigen::MatrixXd> draws;
  for (const std::string& file : numbered(path, "", ".csv", chains, static_cast<int>(run.id))) {
    draws.push_back(parameter_columns(run.model, file));
  }
  return stan::services::standalone_generate(run.model, chains, draws, run.seed, run.interrupt,
                                             run.logger, run.output);
}

int log_prob(Run& run) {
  const std::string unconstrained = run.method.text("unconstrained_params");
  const std::string constrained = run.method.text("constrained_params");
  if (unconstrained.empty() && constrained.empty()) {
    throw std::invalid_argument(
        "No input parameters provided, cannot calculate log probability density");
  }
  if (!unconstrained.empty() && !constrained.empty()) {
    throw std::invalid_argument(
        "Cannot specify both input files of constrained and unconstrained parameters");
  }
  std::vector<std::vector<double>> points;
  if (!unconstrained.empty()) {
    points = unconstrained_points(run.model, unconstrained);
  } else if (extension(constrained) == ".csv") {
    points = unconstrained_rows(run.model, constrained);
  } else {
    points = {unconstrained_variables(run.model, constrained)};
  }

  std::vector<std::string> names;
  run.model.unconstrained_param_names(names, false, false);
  for (std::string& name : names) {
    name.insert(0, "g_");
  }
  names.insert(names.begin(), "lp__");
  run.output[0](names);
  if (run.method.truth("jacobian")) {
    write_log_prob<true>(run, points);
  } else {
    write_log_prob<false>(run, points);
  }
  return 0;
}

int diagnose(Run& run) {
  const Argument& gradient = run.method.at("test/gradient");
  const Contexts inits = run.inits(1);
  stan::callbacks::writer init_writer;
  return stan::services::diagnose::diagnose(
      run.model, *inits[0], run.seed, run.id, run.init_radius, gradient.real("epsilon"),
      gradient.real("error"), run.interrupt, run.logger, init_writer, run.output[0]);
}

}  // namespace engine
