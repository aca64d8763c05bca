#include "grammar.hpp"

#include <initializer_list>
#include <utility>

namespace engine {
namespace {

using Kind = Argument::Kind;
using Children = std::vector<Argument>;

// ---- what nodes there are ----

Argument node(Kind kind, const char* name, const char* description, Children children = {}) {
  Argument argument;
  argument.kind = kind;
  argument.name = name;
  argument.description = description;
  argument.children = std::move(children);
  return argument;
}

Argument group(const char* name, const char* description, Children arguments = {}) {
  return node(Kind::group, name, description, std::move(arguments));
}

Argument flag(const char* name, const char* description) {
  return node(Kind::flag, name, description);
}

Argument choice(const char* name, const char* description, size_t usual, Children alternatives) {
  Argument argument = node(Kind::choice, name, description, std::move(alternatives));
  argument.chosen = argument.usual = usual;
  return argument;
}

Argument value(const char* name, const char* description, Value initial, Bounds bounds) {
  Argument argument = node(Kind::value, name, description);
  argument.value = argument.initial = std::move(initial);
  argument.bounds = std::move(bounds);
  return argument;
}

// ---- what values they take ----

Bounds positive(const std::string& name) {
  return {0, std::numeric_limits<double>::infinity(), true, "0 < " + name};
}

Bounds nonnegative(const std::string& name) {
  return {0, std::numeric_limits<double>::infinity(), false, "0 <= " + name};
}

Argument count(const char* name, const char* description, long long initial) {
  return value(name, description, initial, nonnegative(name));
}

Argument positive_count(const char* name, const char* description, long long initial) {
  Bounds bounds = positive(name);
  bounds.upper = std::numeric_limits<int>::max();
  return value(name, description, initial, bounds);
}

Argument real(const char* name, const char* description, double initial) {
  return value(name, description, initial, positive(name));
}

Argument tolerance(const char* name, const char* description, double initial) {
  return value(name, description, initial, nonnegative(name));
}

Argument fraction(const char* name, const char* description, double initial, bool open) {
  const char* less = open ? " < " : " <= ";
  return value(name, description, initial,
               {0, 1, open, std::string("0") + less + name + less + "1"});
}

Argument truth(const char* name, const char* description, bool initial) {
  return value(name, description, initial, {0, 1, false, "[0, 1]"});
}

Argument file(const char* name, const char* description, const char* initial = "") {
  return value(name, description, std::string(initial), {0, 0, false, "Path to a file"});
}

// ---- the methods ----

Argument sample() {
  return group(
      "sample", "Markov chain Monte Carlo",
      {count("num_samples", "Iterations after warmup", 1000),
       count("num_warmup", "Iterations of warmup", 1000),
       truth("save_warmup", "Write the warmup draws, too?", false),
       positive_count("thin", "Keep every so manieth draw", 1),
       group("adapt", "Adaptation during warmup",
             {truth("engaged", "Adapt?", true),
              real("gamma", "Regularization scale", 0.05),
              fraction("delta", "Target acceptance statistic", 0.8, true),
              real("kappa", "Relaxation exponent", 0.75),
              real("t0", "Iteration offset", 10),
              count("init_buffer", "Width of the initial fast interval", 75),
              count("term_buffer", "Width of the final fast interval", 50),
              count("window", "First width of the slow interval", 25),
              truth("save_metric", "Write the adapted step size and metric as JSON?", false)}),
       choice("algorithm", "Sampling algorithm", 0,
              {group("hmc", "Hamiltonian Monte Carlo",
                     {choice("engine", "How trajectories end", 1,
                             {group("static", "After a fixed integration time",
                                    {real("int_time", "Integration time", 6.28319)}),
                              group("nuts", "The No-U-Turn criterion",
                                    {positive_count("max_depth", "Deepest tree", 10)})}),
                      choice("metric", "Geometry of the base manifold", 1,
                             {flag("unit_e", "Euclidean, identity matrix"),
                              flag("diag_e", "Euclidean, diagonal matrix"),
                              flag("dense_e", "Euclidean, dense matrix")}),
                      file("metric_file", "JSON with the first inverse metric, inv_metric"),
                      real("stepsize", "First step size", 1),
                      fraction("stepsize_jitter", "Uniform jitter of the step size, relative", 0,
                               false)}),
               group("fixed_param", "Generated quantities at constant parameters")}),
       positive_count("num_chains", "Chains run by this process", 1)});
}

/** Arguments of L-BFGS; BFGS has all but the last, Pathfinder has them all. */
Children lbfgs() {
  return {tolerance("init_alpha", "Step size of the first line search", 0.001),
          tolerance("tol_obj", "Convergence: absolute change of the objective", 1e-12),
          tolerance("tol_rel_obj", "Convergence: relative change of the objective", 1e4),
          tolerance("tol_grad", "Convergence: norm of the gradient", 1e-8),
          tolerance("tol_rel_grad", "Convergence: relative norm of the gradient", 1e7),
          tolerance("tol_param", "Convergence: change of the parameters", 1e-8),
          positive_count("history_size", "Updates kept to approximate the Hessian", 5)};
}

Argument optimize() {
  Children bfgs = lbfgs();
  bfgs.pop_back();
  return group("optimize", "Posterior mode or maximum likelihood",
               {choice("algorithm", "Optimization algorithm", 1,
                       {group("bfgs", "BFGS with line search", bfgs),
                        group("lbfgs", "Limited-memory BFGS with line search", lbfgs()),
                        group("newton", "Newton's method")}),
                truth("jacobian", "Include the change-of-variables terms?", false),
                positive_count("iter", "Most iterations", 2000),
                truth("save_iterations", "Write every iteration?", false)});
}

Argument variational() {
  return group(
      "variational", "Automatic differentiation variational inference",
      {choice("algorithm", "Family of the approximation", 0,
              {group("meanfield", "Independent normals"),
               group("fullrank", "Multivariate normal")}),
       positive_count("iter", "Most iterations of stochastic gradient ascent", 10000),
       positive_count("grad_samples", "Draws per gradient", 1),
       positive_count("elbo_samples", "Draws per ELBO", 100),
       real("eta", "Step size", 1),
       group("adapt", "Adaptation of eta",
             {truth("engaged", "Adapt?", true), positive_count("iter", "Iterations per eta", 50)}),
       real("tol_rel_obj", "Convergence: relative change of the ELBO", 0.01),
       positive_count("eval_elbo", "Iterations between evaluations of the ELBO", 100),
       count("output_samples", "Draws to write", 1000)});
}

Argument diagnose() {
  return group("diagnose", "Check of the gradients",
               {choice("test", "What is checked", 0,
                       {group("gradient", "Automatic against finite differences",
                              {real("epsilon", "Step of the finite differences", 1e-6),
                               real("error", "Largest difference allowed", 1e-6)})})});
}

Argument generate_quantities() {
  return group("generate_quantities", "Generated quantities of existing draws",
               {file("fitted_params", "CSV with the draws"),
                positive_count("num_chains", "CSV files read, one per chain", 1)});
}

Argument pathfinder() {
  Children arguments = lbfgs();
  for (Argument& argument :
       Children{positive_count("num_psis_draws", "Draws kept by importance resampling", 1000),
                positive_count("num_paths", "Single paths", 4),
                truth("save_single_paths", "Write the draws and iterations of each path?", false),
                truth("psis_resample", "Resample the draws of all paths?", true),
                truth("calculate_lp", "Evaluate the log density of every draw?", true),
                positive_count("max_lbfgs_iters", "Most iterations of L-BFGS", 1000),
                positive_count("num_draws", "Draws per path", 1000),
                positive_count("num_elbo_draws", "Draws per ELBO", 25)}) {
    arguments.push_back(std::move(argument));
  }
  return group("pathfinder", "Pathfinder variational inference", std::move(arguments));
}

Argument log_prob() {
  return group("log_prob", "Log density and gradient at given parameters",
               {file("unconstrained_params", "JSON with params_r, unconstrained parameters"),
                file("constrained_params", "JSON or CSV with constrained parameters"),
                truth("jacobian", "Include the change-of-variables terms?", true)});
}

Argument laplace() {
  return group("laplace", "Normal approximation at the posterior mode",
               {file("mode", "CSV of the optimizer, or JSON, with the mode"),
                truth("jacobian", "Include the change-of-variables terms?", true),
                positive_count("draws", "Draws to write", 1000),
                truth("calculate_lp", "Evaluate the log density of every draw?", true)});
}

// ---- what every method has ----

Argument random_seed() {
  Argument seed = value("seed", "Seed of the random numbers", -1LL,
                        {-1, 4294967295.0, false,
                         "non-negative integer < 4294967296 or -1 to generate seed from "
                         "system time"});
  return group("random", "Random numbers", {std::move(seed)});
}

Argument output() {
  return group(
      "output", "Files written",
      {file("file", "CSV of the draws", "output.csv"),
       file("diagnostic_file", "CSV or JSON of what the algorithm did"),
       value("refresh", "Iterations between messages; 0 for none", 100LL, nonnegative("refresh")),
       value("sig_figs", "Significant digits; -1 for the usual 6", -1LL,
             {-1, 18, false, "-1 <= sig_figs <= 18"}),
       file("profile_file", "CSV of the program's profile statements", "profile.csv"),
       truth("save_cmdstan_config", "Write these arguments as JSON, too?", false)});
}

Argument num_threads(int threads, bool threaded) {
  Argument argument
      = threaded ? value("num_threads", "Threads", static_cast<long long>(threads),
                         {-1, 1e9, false, "num_threads > 0 || num_threads == -1"})
                 : value("num_threads", "Threads (more than one needs STAN_THREADS=true)", 1LL,
                         {1, 1, false, "num_threads == 1"});
  argument.initial_words = "1 or the environment variable STAN_NUM_THREADS";
  return argument;
}

}  // namespace

Argument grammar(int threads, bool threaded) {
  return group(
      "", "",
      {choice("method", "What to compute", 0,
              {sample(), optimize(), variational(), diagnose(), generate_quantities(),
               pathfinder(), log_prob(), laplace()}),
       value("id", "Number of the (first) chain, a stream of random numbers", 1LL,
             {0, 2147483647, false, "id >= 0"}),
       group("data", "Data", {file("file", "JSON with the data")}),
       value("init", "Initial values: a radius around zero, zero, or JSON (one, or one per chain)",
             std::string("2"), {0, 1e300, false, "A non-negative number or a path"}),
       random_seed(), output(), num_threads(threads, threaded)});
}

}  // namespace engine
