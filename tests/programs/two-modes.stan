// Two normal modes of known masses under a normal prior.

data {
  int<lower=1> n;
  real<lower=0> prior_scale;
  vector[2] place;  // of the modes, the same in every dimension
  vector<lower=0>[2] width;
  simplex[2] share;  // of the likelihood
  int<lower=0, upper=1> tempered;  // 0: likelihood_weight is not used
  real<lower=0> likelihood_weight;
}
parameters {
  vector[n] x;
}
model {
  x ~ normal(0, prior_scale);
  target += (tempered ? likelihood_weight : 1)
            * log_sum_exp(log(share[1]) + normal_lpdf(x | place[1], width[1]),
                          log(share[2]) + normal_lpdf(x | place[2], width[2]));
}
generated quantities {
  real log_lik
    = log_sum_exp(log(share[1]) + normal_lpdf(x | place[1], width[1]),
                  log(share[2]) + normal_lpdf(x | place[2], width[2]));
}
