// A network with one hidden layer of H units, tanh, for one input.
data {
  int<lower=1> N; // observations
  int<lower=1> H; // hidden units
  vector[N] x;
  vector[N] y;
}
parameters {
  vector[H] weight; // from the input
  vector[H] bias;
  vector[H] output; // to the prediction
  real intercept;
  real<lower=0> sigma;
}
transformed parameters {
  vector[N] prediction;
  for (n in 1:N) {
    prediction[n] = intercept + dot_product(output, tanh(weight * x[n] + bias));
  }
}
model {
  weight ~ normal(0, 2);
  bias ~ normal(0, 2);
  output ~ normal(0, 1);
  intercept ~ normal(0, 1);
  sigma ~ lognormal(-1.5, 0.5);
  y ~ normal(prediction, sigma);
}
generated quantities {
  vector[N] log_lik;
  for (n in 1:N) {
    log_lik[n] = normal_lpdf(y[n] | prediction[n], sigma);
  }
}
