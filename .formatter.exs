[
  inputs: [
    "{mix,.formatter}.exs",
    "{config,lib,test,bench,demo}/**/*.{ex,exs}",
    "offline/*/{mix,.formatter}.exs",
    "offline/*/{lib,test}/**/*.{ex,exs}"
  ]
]
