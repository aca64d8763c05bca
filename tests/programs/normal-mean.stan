data {
  int<lower=1> N;
  vector[N] y;
  real<lower=0> prior_sd;
}
parameters {
  real mu;
}
model {
  mu ~ normal(0, prior_sd);
  y ~ normal(mu, 1);
}
