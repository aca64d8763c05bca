// Parameters whose transforms are the same in every version of Stan since 2.35, and pseudorandom
// numbers.
data {
  int<lower=0> N;
  vector[N] y;
}
parameters {
  real mu;
  real<lower=0> sigma;
  matrix[2, 3] z;
}
model {
  mu ~ normal(0, 2);
  sigma ~ lognormal(0, 1);
  to_vector(z) ~ std_normal();
  y ~ normal(mu, sigma);
}
generated quantities {
  vector[N] log_lik;
  vector[N] new_y;
  for (n in 1:N) {
    log_lik[n] = normal_lpdf(y[n] | mu, sigma);
    new_y[n] = normal_rng(mu, sigma);
  }
}
