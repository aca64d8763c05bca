// Factor analysis: K factors, integrated out. Normal priors keep rotations.
data {
  int<lower=1> N; // observations
  int<lower=1> D; // variables
  int<lower=1> K; // factors
  array[N] vector[D] y; // standardized
}
parameters {
  matrix[D, K] loadings;
  vector<lower=0>[D] sigma; // unique standard deviations
}
transformed parameters {
  cholesky_factor_cov[D] root = cholesky_decompose(
    add_diag(tcrossprod(loadings), square(sigma)));
}
model {
  to_vector(loadings) ~ normal(0, 1);
  sigma ~ lognormal(-0.5, 0.5);
  y ~ multi_normal_cholesky(rep_vector(0, D), root);
}
generated quantities {
  vector[N] log_lik;
  for (n in 1:N) {
    log_lik[n] = multi_normal_cholesky_lpdf(y[n] | rep_vector(0, D), root);
  }
}
