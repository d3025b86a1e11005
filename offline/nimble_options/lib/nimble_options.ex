defmodule NimbleOptions do
  @moduledoc """
  Validates options against a schema, and documents them from it.

  A stand-in for the package of the same name, see `README.md`.

      iex> schema = NimbleOptions.new!(size: [type: :pos_integer, default: 1])
      iex> NimbleOptions.validate([], schema)
      {:ok, [size: 1]}
  """

  alias NimbleOptions.{Docs, Schema, Type, TypeSpec, ValidationError}

  defstruct schema: []

  @type schema() :: keyword()
  @type t() :: %__MODULE__{schema: schema()}

  @doc "Checks a schema once, so that validations need not do so. Raises on an invalid one."
  @spec new!(schema()) :: t()
  def new!(schema) when is_list(schema), do: %__MODULE__{schema: Schema.validate!(schema)}

  @doc "Validates options: a keyword list, or a map. Defaults are filled in."
  @spec validate(keyword(), schema() | t()) ::
          {:ok, validated :: keyword()} | {:error, ValidationError.t()}
  @spec validate(map(), schema() | t()) ::
          {:ok, validated :: map()} | {:error, ValidationError.t()}
  def validate(options, %__MODULE__{schema: schema}), do: __validate__(options, schema)

  def validate(options, schema) when is_list(schema),
    do: __validate__(options, Schema.validate!(schema))

  @doc "As `validate/2`, but raises."
  @spec validate!(keyword(), schema() | t()) :: validated :: keyword()
  @spec validate!(map(), schema() | t()) :: validated :: map()
  def validate!(options, schema) do
    case validate(options, schema) do
      {:ok, options} -> options
      {:error, error} -> raise error
    end
  end

  @doc """
  The schema as a Markdown list.

    * `:nest_level` - how deep the list is nested, each level indents by two spaces.
  """
  @spec docs(schema() | t(), keyword()) :: String.t()
  def docs(schema, options \\ [])
  def docs(%__MODULE__{schema: schema}, options), do: Docs.generate(schema, options)
  def docs(schema, options), do: schema |> new!() |> docs(options)

  @doc "The quoted typespec of one option: `@type option() :: unquote(...)`."
  @spec option_typespec(schema() | t()) :: Macro.t()
  def option_typespec(%__MODULE__{schema: schema}), do: TypeSpec.option(schema)
  def option_typespec(schema), do: schema |> new!() |> option_typespec()

  @doc false
  # With a schema that is known to be valid.
  def __validate__(options, schema) when is_map(options) do
    with {:ok, validated} <- options |> Map.to_list() |> __validate__(schema),
         do: {:ok, Map.new(validated)}
  end

  def __validate__(options, schema) do
    with :ok <- check_unknown(options, schema) do
      Enum.reduce_while(schema_for(options, schema), {:ok, options}, fn
        {key, entry}, {:ok, options} ->
          case validate_option(options, key, entry) do
            {:ok, options} -> {:cont, {:ok, options}}
            {:error, error} -> {:halt, {:error, error}}
          end
      end)
    end
  end

  # `*` describes every key that the options have.
  defp schema_for(options, schema) do
    case Keyword.fetch(schema, :*) do
      {:ok, entry} -> for {key, _value} <- options, do: {key, entry}
      :error -> schema
    end
  end

  defp check_unknown(options, schema) do
    valid = Keyword.keys(schema)
    unknown = for {key, _value} <- options, key not in valid, uniq: true, do: key

    if unknown == [] or :* in valid do
      :ok
    else
      message = "unknown options #{inspect(unknown)}, valid options are: #{inspect(valid)}"
      {:error, %ValidationError{key: unknown, message: message}}
    end
  end

  defp validate_option(options, key, entry) do
    with {:ok, value} <- fetch(options, key, entry),
         {:ok, value} <- check(value, key, entry),
         {:ok, value} <- validate_nested(value, key, entry) do
      {:ok, put(options, key, value)}
    else
      :absent -> {:ok, options}
      {:error, error} -> {:error, error}
    end
  end

  defp fetch(options, key, entry) do
    case List.keyfind(options, key, 0) do
      {^key, value} ->
        if entry[:deprecated], do: IO.warn("#{name(key)} is deprecated. #{entry[:deprecated]}")
        {:ok, value}

      nil ->
        cond do
          Keyword.has_key?(entry, :default) ->
            {:ok, entry[:default]}

          entry[:required] ->
            received = for {key, _value} <- options, do: key
            message = "required #{name(key)} not found, received options: #{inspect(received)}"
            {:error, %ValidationError{key: key, message: message}}

          true ->
            :absent
        end
    end
  end

  # The first of a key that is given twice counts, and stands alone afterwards.
  defp put(options, key, value),
    do: [{key, value} | Enum.reject(options, &match?({^key, _value}, &1))]

  defp check(value, key, entry) do
    case Type.check(Keyword.get(entry, :type, :any), value, name(key)) do
      {:ok, value} -> {:ok, value}
      {:error, %ValidationError{} = error} -> {:error, nest(error, key)}
      {:error, message} -> {:error, %ValidationError{key: key, value: value, message: message}}
    end
  end

  defp validate_nested(value, key, entry) do
    case entry[:keys] || [] do
      [] ->
        {:ok, value}

      keys ->
        with {:error, error} <- __validate__(value, keys), do: {:error, nest(error, key)}
    end
  end

  defp nest(error, key), do: %{error | keys_path: [key | error.keys_path]}

  defp name(key), do: "#{inspect(key)} option"
end
