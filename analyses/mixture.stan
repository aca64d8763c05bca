// A mixture of K normal distributions, with exchangeable components.
data {
  int<lower=1> N; // observations
  int<lower=1> K; // components
  vector[N] y;
}
parameters {
  vector[K] mu; // means
  vector<lower=0>[K] sigma; // standard deviations
  simplex[K] theta; // weights
}
model {
  mu ~ normal(0, 5);
  sigma ~ lognormal(0, 0.5);
  theta ~ dirichlet(rep_vector(2, K));
  for (n in 1:N) {
    vector[K] log_density = log(theta);
    for (k in 1:K) {
      log_density[k] += normal_lpdf(y[n] | mu[k], sigma[k]);
    }
    target += log_sum_exp(log_density);
  }
}
generated quantities {
  vector[N] log_lik;
  for (n in 1:N) {
    vector[K] log_density = log(theta);
    for (k in 1:K) {
      log_density[k] += normal_lpdf(y[n] | mu[k], sigma[k]);
    }
    log_lik[n] = log_sum_exp(log_density);
  }
}
