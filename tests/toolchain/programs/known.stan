// Posteriors known in closed form, in the formats Stan writes: a normal mean, a gamma scale,
// standard normals in a matrix, a simplex.
functions {
  #include centered.stanfunctions
}
data {
  int<lower=0> N;
  vector[N] y;
  real<lower=0> prior_sd;
}
parameters {
  real mu;                 // normal, conjugate
  real<lower=0> tau;       // gamma(3, 2): mode 1, and 1.5 on the log scale
  simplex[3] weight;       // dirichlet(2, 3, 5)
  matrix[2, 3] z;          // standard normals
}
transformed parameters {
  vector[N] residual = centered(y, mu);
}
model {
  mu ~ normal(0, prior_sd);
  tau ~ gamma(3, 2);
  weight ~ dirichlet([2, 3, 5]');
  to_vector(z) ~ std_normal();
  profile("likelihood") {
    residual ~ std_normal();
  }
}
generated quantities {
  vector[N] log_lik;
  int<lower=0> above = 0;
  for (n in 1:N) {
    log_lik[n] = std_normal_lpdf(residual[n]);
    above += residual[n] > 0;
  }
}
