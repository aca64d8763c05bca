// k of n with a uniform prior: the evidence of each k from 0 to n is 1 / (n + 1).

data {
  int<lower=1> n;
  int<lower=0, upper=n> k;
  real<lower=0> likelihood_weight;
}
parameters {
  real<lower=0, upper=1> p;
}
model {
  target += likelihood_weight * binomial_lpmf(k | n, p);
}
generated quantities {
  real log_lik = binomial_lpmf(k | n, p);
}
