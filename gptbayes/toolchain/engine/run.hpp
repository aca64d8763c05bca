#ifndef ENGINE_RUN_HPP
#define ENGINE_RUN_HPP

// What a method is given, and the methods. Each is a call of the function of stan::services that
// does the work, with the arguments it wants; nothing here computes anything.

#include "arguments.hpp"
#include "files.hpp"

#include <stan/callbacks/interrupt.hpp>
#include <stan/callbacks/json_writer.hpp>
#include <stan/callbacks/logger.hpp>
#include <stan/callbacks/unique_stream_writer.hpp>
#include <stan/callbacks/writer.hpp>
#include <stan/model/model_base.hpp>

#include <memory>
#include <string>
#include <vector>

namespace engine {

using Model = stan::model::model_base;
using CsvWriter = stan::callbacks::unique_stream_writer<RowFile>;
using JsonWriter = stan::callbacks::json_writer<RowFile>;

struct Run {
  Model& model;
  const Argument& arguments;  // all of them
  const Argument& method;     // those of the method
  stan::callbacks::logger& logger;
  stan::callbacks::interrupt interrupt{};

  unsigned int seed = 0;
  unsigned int id = 1;
  int refresh = 100;
  double init_radius = 2;

  std::vector<CsvWriter> output{};       // one per chain
  std::vector<CsvWriter> diagnostics{};  // one per chain, silent if not asked for

  Run(Model& model, const Argument& arguments, stan::callbacks::logger& logger);

  /** How many chains (CSV files) this run writes. */
  int chains() const;
  /** The initial values of so many chains or paths. */
  Contexts inits(int count) const;
  /** A CSV with a header that says how it came about. */
  CsvWriter csv(const std::string& path) const;
  /** JSON, or nothing for an empty path. */
  JsonWriter json(const std::string& path) const;
  std::string output_file() const { return arguments.text("output/file"); }
  int sig_figs() const { return arguments.integer("output/sig_figs"); }

  void open_outputs();
  void write_config() const;
  /** Throws if something written did not reach its file: the disk is full. */
  void check_outputs();

 private:
  void describe(std::ostream& out) const;
};

int sample(Run& run);
int optimize(Run& run);
int laplace(Run& run);
int pathfinder(Run& run);
int variational(Run& run);
int generate_quantities(Run& run);
int log_prob(Run& run);
int diagnose(Run& run);

/** Unconstrained parameters of every row of a CSV whose first columns are the model's parameters. */
std::vector<std::vector<double>> unconstrained_rows(const Model& model, const std::string& path);
/** Unconstrained parameters from the variables of a JSON file. */
std::vector<double> unconstrained_variables(const Model& model, const std::string& path);
/** The rows and columns of a CSV that hold the model's (constrained) parameters. */
Eigen::MatrixXd parameter_columns(const Model& model, const std::string& path);

}  // namespace engine

#endif
