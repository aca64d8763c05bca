#include "run.hpp"

#include <stan/services/experimental/advi/fullrank.hpp>
#include <stan/services/experimental/advi/meanfield.hpp>

namespace engine {

int variational(Run& run) {
  namespace services = stan::services::experimental::advi;
  const Argument& method = run.method;
  const int grad_samples = method.integer("grad_samples");
  const int elbo_samples = method.integer("elbo_samples");
  const int iterations = method.integer("iter");
  const double tol_rel_obj = method.real("tol_rel_obj");
  const double eta = method.real("eta");
  const bool adapt_engaged = method.truth("adapt/engaged");
  const int adapt_iterations = method.integer("adapt/iter");
  const int eval_elbo = method.integer("eval_elbo");
  const int draws = method.integer("output_samples");
  const Contexts inits = run.inits(1);
  stan::callbacks::writer init_writer;

  if (method.choice("algorithm") == "fullrank") {
    return services::fullrank(run.model, *inits[0], run.seed, run.id, run.init_radius,
                              grad_samples, elbo_samples, iterations, tol_rel_obj, eta,
                              adapt_engaged, adapt_iterations, eval_elbo, draws, run.interrupt,
                              run.logger, init_writer, run.output[0], run.diagnostics[0]);
  }
  return services::meanfield(run.model, *inits[0], run.seed, run.id, run.init_radius, grad_samples,
                             elbo_samples, iterations, tol_rel_obj, eta, adapt_engaged,
                             adapt_iterations, eval_elbo, draws, run.interrupt, run.logger,
                             init_writer, run.output[0], run.diagnostics[0]);
}

}  // namespace engine
