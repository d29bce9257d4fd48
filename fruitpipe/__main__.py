from fruitpipe.cli.app import main

main()
