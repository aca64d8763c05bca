// The command line of a compiled Stan program: the same arguments, files, messages and exit codes
// as CmdStan's, around the same stan::services.

#include "grammar.hpp"
#include "run.hpp"

#include <stan/callbacks/stream_logger.hpp>
#include <stan/math/prim/core/init_threadpool_tbb.hpp>
#include <stan/math/rev/core/profiling.hpp>
#include <stan/version.hpp>

#include <chrono>
#include <functional>
#include <iostream>
#include <map>
#include <stdexcept>

// Every compiled program defines these two.
stan::model::model_base& new_model(stan::io::var_context& data, unsigned int seed,
                                   std::ostream* messages);
stan::math::profile_map& get_stan_profile_data();

namespace engine {

void print_flags(std::ostream& out);

namespace {

#ifdef STAN_THREADS
constexpr bool threaded = true;
#else
constexpr bool threaded = false;
#endif

void print_info(std::ostream& out) {
  out << "stan_version_major = " << stan::MAJOR_VERSION << "\n"
      << "stan_version_minor = " << stan::MINOR_VERSION << "\n"
      << "stan_version_patch = " << stan::PATCH_VERSION << "\n";
  print_flags(out);
}

long long seed_from_clock() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(now).count() & 0xffffffffLL;
}

/** What can be said about files before anything is computed or overwritten. */
void check_files(const Argument& arguments) {
  const std::string method = arguments.choice("method");
  const bool reads = method == "generate_quantities" || method == "laplace";
  if (!reads) {
    return;
  }
  const std::string name = method == "laplace" ? "mode" : "fitted_params";
  const std::string input = arguments.text("method/" + method + "/" + name);
  if (input.empty()) {
    throw std::invalid_argument("Argument " + name
                                + " file - found empty string, expecting filename.");
  }
  if (input == arguments.text("output/file")) {
    throw std::invalid_argument("Filename conflict, " + name + " file " + input
                                + " and output file names are identical, must be different.");
  }
}

void write_profile(const std::string& path, int sig_figs) {
  const stan::math::profile_map& profiles = get_stan_profile_data();
  if (profiles.empty()) {
    return;
  }
  auto out = open_output(path, sig_figs);
  *out << "name,thread_id,total_time,forward_time,reverse_time,chain_stack,no_chain_stack,"
          "autodiff_calls,no_autodiff_calls\n";
  for (const auto& [key, profile] : profiles) {
    *out << key.first << "," << key.second << ","
         << profile.get_fwd_time() + profile.get_rev_time() << "," << profile.get_fwd_time() << ","
         << profile.get_rev_time() << "," << profile.get_chain_stack_used() << ","
         << profile.get_nochain_stack_used() << "," << profile.get_num_rev_passes() << ","
         << profile.get_num_no_AD_fwd_passes() << "\n";
  }
}

int run_method(Run& run) {
  static const std::map<std::string, std::function<int(Run&)>> methods{
      {"sample", sample},           {"optimize", optimize},
      {"laplace", laplace},         {"pathfinder", pathfinder},
      {"variational", variational}, {"generate_quantities", generate_quantities},
      {"log_prob", log_prob},       {"diagnose", diagnose}};
  return methods.at(run.method.name)(run);
}

int command(const std::string& program, const std::vector<std::string>& words) {
  Argument arguments = grammar(stan::math::internal::get_num_threads(), threaded);
  switch (parse(arguments, words, program, std::cout)) {
    case Parsed::error:
      std::cout << "Failed to parse command arguments, cannot run model." << std::endl;
      return 1;
    case Parsed::info:
      print_info(std::cout);
      return 0;
    case Parsed::help:
      return 0;
    case Parsed::run:
      break;
  }
  check_files(arguments);
  Argument& seed = arguments.at("random/seed");
  if (seed.is_default()) {
    seed.set_default(seed_from_clock());
  }
  stan::math::init_threadpool_tbb(arguments.integer("num_threads"));
  for (const Argument& argument : arguments.children) {
    argument.print(std::cout, "");
  }
  std::cout << std::endl;

  stan::callbacks::stream_logger logger(std::cout, std::cout, std::cout, std::cerr, std::cerr);
  const Context data = read_variables(arguments.text("data/file"));
  const auto model_seed = static_cast<unsigned int>(std::get<long long>(seed.value));
  const std::unique_ptr<Model> model(&new_model(*data, model_seed, &std::cout));
  if (model->num_params_r() == 0 && arguments.choice("method") != "sample") {
    throw std::invalid_argument("Model " + model->model_name()
                                + " has no parameters, nothing to estimate.");
  }
  Run run(*model, arguments, logger);
  run.open_outputs();
  if (arguments.truth("output/save_cmdstan_config")) {
    run.write_config();
  }
  const int code = run_method(run);
  write_profile(arguments.text("output/profile_file"), run.sig_figs());
  run.check_outputs();
  return code == 0 ? 0 : 1;
}

}  // namespace
}  // namespace engine

int main(int argc, const char* argv[]) {
  try {
    return engine::command(argv[0], std::vector<std::string>(argv + 1, argv + argc));
  } catch (const std::exception& e) {
    std::cerr << e.what() << std::endl;
    return 1;
  }
}
