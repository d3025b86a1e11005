defmodule NimbleOptions.Schema do
  # A schema is itself a keyword list of options, checked by the very code that it will later
  # drive.
  @moduledoc false

  alias NimbleOptions.Type

  @keys [:keyword_list, :non_empty_keyword_list, :map]

  @entry [
    type: [type: {:custom, Type, :validate, []}, default: :any],
    required: [type: :boolean, default: false],
    default: [type: :any],
    keys: [type: :keyword_list],
    deprecated: [type: :string],
    doc: [type: {:or, [:string, {:in, [false]}]}],
    subsection: [type: :string],
    type_doc: [type: {:or, [:string, {:in, [false]}]}],
    type_spec: [type: :any]
  ]

  @doc "Returns the schema with the defaults of schemas filled in, or raises."
  @spec validate!(keyword()) :: keyword()
  def validate!(schema) do
    unless Keyword.keyword?(schema),
      do: invalid!("expected a keyword list, got: #{inspect(schema)}")

    for {key, entry} <- schema, do: {key, validate_entry!(key, entry)}
  end

  # Defaults are checked when they are used: a custom type may name a function of the module that
  # is being compiled.
  defp validate_entry!(key, entry) do
    with true <- Keyword.keyword?(entry),
         {:ok, entry} <- NimbleOptions.__validate__(entry, @entry) do
      nested!(key, entry)
    else
      false ->
        invalid!("expected #{inspect(key)} to be a keyword list, got: #{inspect(entry)}")

      {:error, error} ->
        invalid!(Exception.message(%{error | keys_path: [key | error.keys_path]}))
    end
  end

  defp nested!(key, entry) do
    case Keyword.fetch(entry, :keys) do
      {:ok, keys} when keys != [] ->
        unless entry[:type] in @keys,
          do:
            invalid!("#{inspect(key)} has :keys and therefore needs a type of #{inspect(@keys)}")

        Keyword.put(entry, :keys, validate!(keys))

      _none ->
        entry
    end
  end

  @spec invalid!(String.t()) :: no_return()
  defp invalid!(reason),
    do: raise(ArgumentError, "invalid NimbleOptions schema. Reason: #{reason}")
end
